#include "ops/linear/linear_cpu.h"

#include <stdexcept>
#include <string>

namespace fastcnn {

Linear::Linear(const LinearProblem& problem, DType weight_dtype)
    : problem_(problem), weight_dtype_(weight_dtype) {
  const struct {
    const char* name;
    int64_t value, least;
  } bounds[] = {{"N", problem.N, 0},
                {"D", problem.D, 0},
                {"M", problem.M, 1},
                {"x_stride", problem.x_stride, problem.D},
                {"y_stride", problem.y_stride, problem.M}};
  for (const auto& bound : bounds)
    if (bound.value < bound.least)
      throw std::invalid_argument(std::string("linear: ") + bound.name + " is " +
                                  std::to_string(bound.value) + ", must be at least " +
                                  std::to_string(bound.least));
  kernel_ = &FASTCNN_SELECT(linear_kernel);
}

void Linear::run(const void* x, const void* packed, const float* bias, void* y, int threads) const {
  if (problem_.has_bias && !bias)
    throw std::invalid_argument("linear: the problem has a bias, its address is 0");
  if (problem_.N == 0) return;
  if (!y || (problem_.D > 0 && (!x || !packed)))
    throw std::invalid_argument("linear: the address of x, packed or y is 0");
  kernel_->run(problem_, weight_dtype_, x, packed, problem_.has_bias ? bias : nullptr, y,
               threads < 1 ? 1 : threads);
}

}  // namespace fastcnn
