// Convolution on the CPU: several algorithms, one interface.
//
//   y[n, p, q, k] = act(bias[k] + residual[n, p, q, k] + sum_{r, s, c} x[n, h, w, c] * weight[k, c, r, s])
//
// Conv2dProblem (base/problem.h) has the details. Weights are packed once per problem and algorithm; x,
// residual and y are in problem.dtype, weights and bias in fp32, sums are fp32. direct_bf16 rounds the
// weights to bfloat16, which loses nothing where they were given in it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/problem.h"
#include "ops/conv2d/kernels_cpu.h"

namespace fastcnn {

// Names of the algorithms, best first; the first whose conv2d_reason is empty is the choice.
std::vector<std::string> conv2d_algorithms();

// "" if `name` takes the problem on so many threads, else why not: it cannot, or another will be faster.
std::string conv2d_reason(const std::string& name, const Conv2dProblem& problem, int threads);

// Winograd convolution rounds more than direct summation, whose relative error (L2, against exact arithmetic)
// is 1e-7 to 1e-6. Bounds: winograd_f2 2e-6, winograd_f4 and winograd5x5 1e-5, winograd_f6 3e-5; that is four
// to eight times what random inputs show. An algorithm whose bound is above the tolerance is not chosen: by
// default F(6,3) is not; 0 forbids all of them. It also spreads a NaN or an infinity over all outputs of a
// tile (winograd_cpu.cpp).
void set_winograd_tolerance(float tolerance);
float winograd_tolerance();

// One problem and one algorithm; immutable, so several threads may run it at once.
class Conv2d {
 public:
  // Throws std::invalid_argument if the problem makes no sense or the algorithm cannot compute it. The rules
  // of choice (tolerance, speed) do not bind here: whoever names an algorithm gets it.
  // max_pool: y takes the maximum over each 2x2 block of the result, (N, P / 2, Q / 2, K); Winograd
  // algorithms without a residual can do that.
  Conv2d(const Conv2dProblem& problem, const std::string& name, bool max_pool = false);

  const Conv2dProblem& problem() const { return problem_; }
  const char* name() const { return name_; }
  bool max_pool() const { return max_pool_; }
  int64_t packed_bytes() const { return kernel_->packed_bytes(problem_); }
  void pack(const float* weight, WeightForm form, void* packed, int threads) const {
    kernel_->pack(problem_, weight, form, packed, threads);
  }
  // Weights that are not packed are packed on the way, in the threads' scratch memory. bias and residual are
  // read only if the problem has them.
  void run(const void* x, const void* weight, WeightForm form, const float* bias, const void* residual,
           void* y, int threads) const;

 private:
  Conv2dProblem problem_;
  const char* name_;
  bool max_pool_;
  const Conv2dKernel* kernel_;
};

}  // namespace fastcnn
