#include "ops/conv2d/conv2d.h"

#include <atomic>
#include <cstdio>
#include <stdexcept>

#include "cpu/scratch.h"

namespace fastcnn {
namespace {

struct Algorithm {
  const char* name;
  int tile, kernel;  // Winograd: outputs of a tile and taps, along one side
  float error;       // bound of the relative error (L2) against exact arithmetic, 0: that of a direct sum
  const Conv2dKernel& (*kernels)();
};

#define FASTCNN_KERNEL(name) []() -> const Conv2dKernel& { return FASTCNN_SELECT(name); }

// The bounds of conv2d.h; tests/cpu/test_conv2d_native.py measures them.
const Algorithm kAlgorithms[] = {
    {"winograd_f6", 6, 3, 3e-5f, FASTCNN_KERNEL(winograd_f6_conv2d)},
    {"winograd_f4", 4, 3, 1e-5f, FASTCNN_KERNEL(winograd_f4_conv2d)},
    {"winograd_f2", 2, 3, 2e-6f, FASTCNN_KERNEL(winograd_f2_conv2d)},
    {"winograd5x5", 4, 5, 1e-5f, FASTCNN_KERNEL(winograd5x5_conv2d)},
    {"narrow_groups", 0, 0, 0, FASTCNN_KERNEL(narrow_groups_conv2d)},
    {"narrow", 0, 0, 0, FASTCNN_KERNEL(narrow_conv2d)},
#if defined(__x86_64__)
    {"direct_amx", 0, 0, 0, []() -> const Conv2dKernel& { return amx::amx_conv2d; }},
    {"direct_bf16", 0, 0, 0, []() -> const Conv2dKernel& { return avx512_bf16::direct_conv2d; }},
#endif
    {"staged", 0, 0, 0, FASTCNN_KERNEL(staged_conv2d)},
    {"direct", 0, 0, 0, FASTCNN_KERNEL(direct_conv2d)},
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

std::atomic<float> tolerance{1e-5f};  // lets in all but F(6,3)

// Why the algorithm cannot compute the problem.
std::string incapable(const Algorithm& algorithm, const Conv2dProblem& p) {
  if (algorithm.tile) {
    const std::string side = std::to_string(algorithm.kernel);
    if (p.R != algorithm.kernel || p.S != algorithm.kernel)
      return "needs a " + side + "x" + side + " kernel, it is " + std::to_string(p.R) + "x" +
             std::to_string(p.S);
    if (p.stride_h != 1 || p.stride_w != 1) return "needs stride 1";
    if (p.dilation_h != 1 || p.dilation_w != 1) return "needs dilation 1";
  }
  const std::string name = algorithm.name;
  if (name == "narrow_groups") {
    const int64_t in = p.C / p.groups, out = p.K / p.groups, width = simd_floats(isa());
    if (p.groups == 1) return "needs groups, there is one";
    if (out % width != 0 && (width % out != 0 || in > out))
      return "needs a number of output channels a group that is a multiple of " + std::to_string(width) +
             ", or divides it and is not below that of input channels; it has " + std::to_string(in) +
             " -> " + std::to_string(out);
  }
  if ((name == "staged" || name == "narrow") && p.groups != 1)
    return "needs groups = 1, it is " + std::to_string(p.groups);
  if (name == "narrow") {
    if (p.stride_w != 1) return "needs stride 1 along w, it is " + std::to_string(p.stride_w);
    if (p.has_residual) return "adds no residual";
    // Its sums are not cut into runs, so a longer one would err more than the other algorithms'.
    if (p.C * p.R * p.S > 256) return "sums at most 256 products, here " + std::to_string(p.C * p.R * p.S);
  }
  if (name == "direct_amx") {
    if (p.dtype != DType::bfloat16) return "needs bfloat16 input";
    if (isa() != Isa::amx)
      return "needs AMX, which this processor or system lacks or FASTCNN_CPU_ISA excludes";
    if (p.groups > 1) return "needs groups = 1, it is " + std::to_string(p.groups);
  }
  if (name == "direct_bf16") {
    if (p.dtype != DType::bfloat16) return "needs bfloat16 input";
    if (!has_bf16_dot()) return "needs AVX512-BF16, which this processor lacks or FASTCNN_CPU_ISA excludes";
    if (p.groups > 1 && p.C / p.groups % 2)
      return "needs an even number of channels a group, it is " + std::to_string(p.C / p.groups);
  }
  if (name == "staged" && p.dilation_w != 1)
    return "needs dilation 1 along w, it is " + std::to_string(p.dilation_w);
  return "";
}

std::string shorter(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

std::string too_inexact(const Algorithm& algorithm) {
  if (algorithm.error <= winograd_tolerance()) return "";
  return "its relative error may reach " + shorter(algorithm.error) + ", the tolerance is " +
         shorter(winograd_tolerance());
}

// Microseconds, as a rule of thumb for a core of 100 GFLOP/s: the multiplications, or the weights' way from
// memory if that takes longer, and for Winograd the transforms of inputs and outputs.
double estimate(const Algorithm& algorithm, const Conv2dProblem& p, int threads) {
  constexpr double kFlops = 1e5, kWeightBytes = 2e4,
                   kTransformed = 3e3;  // per microsecond; the second for all cores
  const double channels = static_cast<double>(p.C / p.groups) * p.K;
  double rows = static_cast<double>(p.N) * p.P * p.Q, points = static_cast<double>(p.R) * p.S,
         transformed = 0;
  if (algorithm.tile) {
    const int64_t down = (p.P + algorithm.tile - 1) / algorithm.tile,
                  across = (p.Q + algorithm.tile - 1) / algorithm.tile;
    const double side = algorithm.tile + algorithm.kernel - 1;
    rows = static_cast<double>(p.N) * down * across;
    points = side * side;
    transformed = rows * points * (p.C + p.K);
  }
  const std::string name = algorithm.name;
  const double faster = name == "direct_amx" ? 16 : name == "direct_bf16" ? 2 : 1;
  const double weight_bytes = name == "direct_amx" || name == "direct_bf16" ? 2 : 4;
  const double multiply = 2 * rows * points * channels / (kFlops * faster * threads);
  const double weights = weight_bytes * points * channels / kWeightBytes;
  return (multiply > weights ? multiply : weights) + transformed / (kTransformed * threads);
}

// Channels a group from which on matrix products fill their panels, and are worth Winograd's transforms.
constexpr int64_t kWideGroup = 64;

// Why another algorithm should compute it.
std::string rule(const Algorithm& algorithm, const Conv2dProblem& p, int threads) {
  const std::string name = algorithm.name;
  if (algorithm.tile) {
    const std::string reason = too_inexact(algorithm);
    if (!reason.empty()) return reason;
    if (p.groups > 1 && p.C / p.groups < kWideGroup)
      return std::to_string(p.C / p.groups) + " channels a group are too few to be worth the transforms";
    if (p.N * p.P * p.Q * p.K * p.C < (1 << 16)) return "the problem is too small to be worth the transforms";
    const double mine = estimate(algorithm, p, threads);
    for (const Algorithm& other : kAlgorithms) {
      if (!incapable(other, p).empty() || (other.tile && !too_inexact(other).empty())) continue;
      const double theirs = estimate(other, p, threads);
      if (theirs < mine)
        return "estimated at " + shorter(mine) + " us, " + other.name + " at " + shorter(theirs) + " us";
    }
  }
  if (name == "narrow_groups" && p.C / p.groups >= kWideGroup)
    return std::to_string(p.C / p.groups) + " channels a group are enough for a matrix product";
  if (name == "narrow") {
    const int64_t width = simd_floats(isa());
    if (2 * p.K > width)
      return "its " + std::to_string(p.K) + " output channels fill a vector of " + std::to_string(width) +
             " well enough";
    if (p.Q < width)
      return "its lines of " + std::to_string(p.Q) + " pixels do not fill a vector of " +
             std::to_string(width);
  }
  if (name == "staged") {
    if (p.R == 1 && p.S == 1) return "a 1x1 kernel reads each input once anyway";
    if (p.dtype == DType::float32 && p.C >= 16)
      return "fp32 input of " + std::to_string(p.C) + " channels is as well read in place";
  }
  return "";
}

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
  reason = incapable(algorithm, problem);
  if (reason.empty()) reason = rule(algorithm, problem, threads);
  return reason.empty() ? "" : name + ": " + reason;
}

Conv2d::Conv2d(const Conv2dProblem& problem, const std::string& name, bool max_pool)
    : problem_(problem), max_pool_(max_pool) {
  const Algorithm& algorithm = find(name);
  std::string reason = invalid(problem);
  if (!reason.empty()) throw std::invalid_argument(reason);
  reason = incapable(algorithm, problem);
  if (!reason.empty()) throw std::invalid_argument(name + ": " + reason);
  if (max_pool && (!algorithm.tile || problem.has_residual))
    throw std::invalid_argument(name + ": takes no max-pool behind " +
                                (algorithm.tile ? "a residual" : "it, only Winograd algorithms do"));
  if (max_pool && !is_increasing(problem.activation))
    throw std::invalid_argument(name + ": takes no max-pool behind an activation that does not keep order");
  name_ = algorithm.name;
  kernel_ = &algorithm.kernels();
}

void Conv2d::run(const void* x, const void* weight, WeightForm form, const float* bias, const void* residual,
                 void* y, int threads) const {
  if (problem_.N * problem_.P * problem_.Q == 0) return;  // no image has no address
  if (problem_.has_bias && !bias)
    throw std::invalid_argument("conv2d: the problem has a bias, its address is 0");
  if (problem_.has_residual && !residual)
    throw std::invalid_argument("conv2d: the problem has a residual, its address is 0");
  if (!weight || !y || (!x && problem_.H * problem_.W > 0))
    throw std::invalid_argument("conv2d: the address of x, weight or y is 0");
  if (threads < 1) threads = 1;
  if (form != WeightForm::packed && !(kernel_->takes_unpacked && kernel_->takes_unpacked(problem_))) {
    void* packed = scratch(Scratch::weights, packed_bytes());
    pack(static_cast<const float*>(weight), form, packed, threads);
    weight = packed;
    form = WeightForm::packed;
  }
  kernel_->run(problem_,
               {x, weight, form, problem_.has_bias ? bias : nullptr,
                problem_.has_residual ? residual : nullptr, y, max_pool_},
               threads);
}

}  // namespace fastcnn
