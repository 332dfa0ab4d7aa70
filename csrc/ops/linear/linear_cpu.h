// Fully connected layer on the CPU, from weights in PyTorch's own order, read in place.
//
//   y[n, m] = act(bias[m] + sum_d x[n, d] * weight[m, d])
//
// x and y are in problem.dtype, weight in problem.weight_dtype, bias, if the problem has one, in fp32; sums
// are fp32. Weights of 16 bits halve the time at small batch.
#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

FASTCNN_FOR_EACH_ISA(void linear(const LinearProblem& problem, const void* x, const void* weight,
                                 const float* bias, void* y, int threads))
#if defined(__x86_64__)
namespace fastcnn::avx512_bf16 {
// For x and weights of bfloat16.
void linear(const LinearProblem& problem, const void* x, const void* weight, const float* bias, void* y,
            int threads);
}  // namespace fastcnn::avx512_bf16
#endif

namespace fastcnn {

static inline void linear(const LinearProblem& problem, const void* x, const void* weight, const float* bias,
                          void* y, int threads) {
#if defined(__x86_64__)
  if (problem.dtype == DType::bfloat16 && problem.weight_dtype == DType::bfloat16 && has_bf16_dot())
    return avx512_bf16::linear(problem, x, weight, bias, y, threads);
#endif
  FASTCNN_SELECT(linear)(problem, x, weight, bias, y, threads);
}

}  // namespace fastcnn
