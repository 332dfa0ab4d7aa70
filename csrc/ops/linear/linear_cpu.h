// Fully connected layer on the CPU: a matrix-vector product at batch 1, which reads the weights once at the
// speed of memory, and a GEMM beyond.
//
//   y[n, m] = act(bias[m] + sum_d x[n, d] * weight[m, d])
//
// x and y are in problem.dtype, bias in fp32, sums are fp32. Weights are given in fp32 and kept in
// weight_dtype: 16 bits halve the time at small batch, at the price of rounding each weight once.
#pragma once

#include <cstdint>

#include "base/problem.h"
#include "cpu/isa.h"

namespace fastcnn {

struct LinearKernel {
  int64_t (*packed_bytes)(const LinearProblem& problem, DType weight_dtype);
  void (*pack)(const LinearProblem& problem, DType weight_dtype, const float* weight, void* packed);
  void (*run)(const LinearProblem& problem, DType weight_dtype, const void* x, const void* packed,
              const float* bias, void* y, int threads);
};

// Immutable, so several threads may run it at once.
class Linear {
 public:
  // Throws std::invalid_argument if the problem makes no sense.
  explicit Linear(const LinearProblem& problem, DType weight_dtype = DType::float32);

  const LinearProblem& problem() const { return problem_; }
  int64_t packed_bytes() const { return kernel_->packed_bytes(problem_, weight_dtype_); }
  // weight: (M, D), contiguous.
  void pack(const float* weight, void* packed) const {
    kernel_->pack(problem_, weight_dtype_, weight, packed);
  }
  // bias is read only if the problem has one.
  void run(const void* x, const void* packed, const float* bias, void* y, int threads) const;

 private:
  LinearProblem problem_;
  DType weight_dtype_;
  const LinearKernel* kernel_;
};

}  // namespace fastcnn

FASTCNN_FOR_EACH_ISA(extern const LinearKernel linear_kernel)
