// Which kernel takes a convolution of bytes, and what such a convolution may be.
#include "ops/conv2d_int8/conv2d_int8.h"

#include <stdexcept>

namespace fastcnn {
namespace {

std::string reason(const std::string& name, const Int8Conv2dProblem& p) {
  if (name == "vnni")
    return has_vnni() ? "" : "this processor, or the instruction set chosen, has no AVX512-VNNI";
  if (name == "amx") {
    if (isa() != Isa::amx) return "this processor, system or the instruction set chosen has no AMX";
    return p.groups == 1 ? "" : "it is for one group";
  }
  if (name == "pairs") return "";
  if (name == "depthwise") {
    if (p.groups != p.C || p.groups != p.K) return "it is for one channel in and out a group";
    return p.R * p.S <= 512 ? "" : "sums of more than 512 taps are not exact in fp32";
  }
  return "unknown; the kernels are amx, vnni, pairs and depthwise";
}

const Int8Conv2dKernel* kernel_of(const std::string& name) {
#if defined(__x86_64__)
  if (name == "amx") return &amx::int8_conv2d;
  if (name == "vnni") return &avx512_vnni::int8_conv2d;
#endif
  if (name == "pairs") return &FASTCNN_SELECT(int8_conv2d);
  return &FASTCNN_SELECT(int8_depthwise_conv2d);
}

void check(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument("conv2d_int8: " + what);
}

void check_problem(const Int8Conv2dProblem& p) {
  auto number = [](int64_t a) { return std::to_string(a); };
  for (int64_t size : {p.N, p.H, p.W, p.P, p.Q, p.pad_h, p.pad_w})
    check(size >= 0, "a size or padding is " + number(size) + ", must be at least 0");
  for (int64_t size : {p.C, p.K, p.R, p.S, p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, p.groups})
    check(size >= 1, "a size, stride, dilation or groups is " + number(size) + ", must be at least 1");
  check(p.C % p.groups == 0 && p.K % p.groups == 0,
        "groups is " + number(p.groups) + ", must divide C = " + number(p.C) + " and K = " + number(p.K));
  check(p.x_stride >= p.C && p.y_stride >= p.K && (!p.has_residual || p.residual_stride >= p.K),
        "a pixel stride is smaller than the number of channels");
  check(p.P == 0 || p.Q == 0 || p.N == 0 || (p.H > 0 && p.W > 0), "the image is empty, the output is not");
  // The largest sum: 255 * 127 a product, and a bias of up to 2^25.
  check(p.C / p.groups * p.R * p.S <= (int64_t{1} << 31) / (255 * 127) - 2048,
        "a sum of " + number(p.C / p.groups * p.R * p.S) + " products may pass 32 bits");
  for (int32_t zero : {p.x_zero, p.y_zero, p.residual_zero, p.low, p.high})
    check(zero >= 0 && zero <= 255, "a zero point or bound is " + number(zero) + ", must be from 0 to 255");
  check(p.low <= p.high, "low is " + number(p.low) + ", above high, " + number(p.high));
  check(!(p.float_output && p.has_residual), "float32 output takes no residual");
}

}  // namespace

std::vector<std::string> conv2d_int8_kernels() { return {"depthwise", "amx", "vnni", "pairs"}; }

Int8Conv2d::Int8Conv2d(const Int8Conv2dProblem& problem, const std::string& name) : problem_(problem) {
  check_problem(problem);
  std::string against;
  for (const char* candidate : {"depthwise", "amx", "vnni", "pairs"}) {
    if (!name.empty() && name != candidate) continue;
    against = reason(candidate, problem);
    if (against.empty()) {
      name_ = candidate, kernel_ = kernel_of(candidate);
      return;
    }
  }
  throw std::invalid_argument("conv2d_int8: kernel '" + name +
                              "': " + (against.empty() ? reason(name, problem) : against));
}

}  // namespace fastcnn
