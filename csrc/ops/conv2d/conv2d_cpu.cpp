#include "ops/conv2d/conv2d_cpu.h"

#include <atomic>
#include <stdexcept>

namespace fastcnn {
namespace {

// `capable` says why the kernel cannot compute the problem; `rule` why another algorithm should.
struct Algorithm {
  const char* name;
  std::string (*capable)(const Conv2dProblem&);
  std::string (*rule)(const Conv2dProblem&, int threads);
  const Conv2dKernel& (*kernel)();
};

std::string always(const Conv2dProblem&) { return ""; }
std::string no_rule(const Conv2dProblem&, int) { return ""; }

const Algorithm kAlgorithms[] = {
    {"direct", always, no_rule, []() -> const Conv2dKernel& { return FASTCNN_SELECT(direct_conv2d); }},
};

const Algorithm& find(const std::string& name) {
  std::string known;
  for (const Algorithm& algorithm : kAlgorithms) {
    if (name == algorithm.name) return algorithm;
    known += (known.empty() ? "" : ", ") + std::string(algorithm.name);
  }
  throw std::invalid_argument("conv2d: unknown algorithm '" + name + "'; known are " + known);
}

std::string invalid(const Conv2dProblem& p) {
  const struct {
    const char* name;
    int64_t value, least;
  } bounds[] = {{"N", p.N, 0},
                {"H", p.H, 0},
                {"W", p.W, 0},
                {"C", p.C, 1},
                {"K", p.K, 1},
                {"R", p.R, 1},
                {"S", p.S, 1},
                {"P", p.P, 0},
                {"Q", p.Q, 0},
                {"stride_h", p.stride_h, 1},
                {"stride_w", p.stride_w, 1},
                {"pad_h", p.pad_h, 0},
                {"pad_w", p.pad_w, 0},
                {"dilation_h", p.dilation_h, 1},
                {"dilation_w", p.dilation_w, 1},
                {"groups", p.groups, 1},
                {"x_stride", p.x_stride, p.C},
                {"y_stride", p.y_stride, p.K},
                {"residual_stride", p.residual_stride, p.has_residual ? p.K : 0}};
  for (const auto& bound : bounds)
    if (bound.value < bound.least)
      return std::string("conv2d: ") + bound.name + " is " + std::to_string(bound.value) +
             ", must be at least " + std::to_string(bound.least);
  if (p.C % p.groups || p.K % p.groups)
    return "conv2d: groups is " + std::to_string(p.groups) + ", must divide C = " + std::to_string(p.C) +
           " and K = " + std::to_string(p.K);
  return "";
}

std::atomic<float> tolerance{5e-6f};

}  // namespace

void set_winograd_tolerance(float value) {
  if (!(value >= 0)) throw std::invalid_argument("set_winograd_tolerance: must be at least 0");
  tolerance.store(value, std::memory_order_relaxed);
}

float winograd_tolerance() { return tolerance.load(std::memory_order_relaxed); }

std::vector<std::string> conv2d_algorithms() {
  std::vector<std::string> names;
  for (const Algorithm& algorithm : kAlgorithms) names.push_back(algorithm.name);
  return names;
}

std::string conv2d_reason(const std::string& name, const Conv2dProblem& problem, int threads) {
  const Algorithm& algorithm = find(name);
  std::string reason = invalid(problem);
  if (!reason.empty()) return reason;
  reason = algorithm.capable(problem);
  if (reason.empty()) reason = algorithm.rule(problem, threads);
  return reason.empty() ? "" : name + ": " + reason;
}

Conv2d::Conv2d(const Conv2dProblem& problem, const std::string& name) : problem_(problem) {
  const Algorithm& algorithm = find(name);
  std::string reason = invalid(problem);
  if (!reason.empty()) throw std::invalid_argument(reason);
  reason = algorithm.capable(problem);
  if (!reason.empty()) throw std::invalid_argument(name + ": " + reason);
  name_ = algorithm.name;
  kernel_ = &algorithm.kernel();
}

void Conv2d::run(const void* x, const void* packed, const float* bias, const void* residual, void* y,
                 int threads) const {
  if (problem_.has_bias && !bias)
    throw std::invalid_argument("conv2d: the problem has a bias, its address is 0");
  if (problem_.has_residual && !residual)
    throw std::invalid_argument("conv2d: the problem has a residual, its address is 0");
  if (problem_.N * problem_.P * problem_.Q == 0) return;
  if (!packed || !y || (!x && problem_.H * problem_.W > 0))
    throw std::invalid_argument("conv2d: the address of x, packed or y is 0");
  kernel_->run(problem_,
               {x, packed, problem_.has_bias ? bias : nullptr, problem_.has_residual ? residual : nullptr, y},
               threads < 1 ? 1 : threads);
}

}  // namespace fastcnn
