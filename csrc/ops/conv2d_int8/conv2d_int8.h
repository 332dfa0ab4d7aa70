// Convolution of bytes by bytes with 32-bit sums, from one layer's integers to the next's.
//
//   sum[n, p, q, k] = bias[k] + sum_{r, s, c} x[n, h, w, g * C / groups + c] * weight[k, c, r, s]
//   f               = float(sum) * multiplier[k] + float(residual - residual_zero) * residual_scale
//   y[n, p, q, k]   = clamp(round(f) + y_zero, low, high)       with float_output: y = f, at least 0 with
//   relu
//
// x, residual and y are u8, weight is s8 from -127 to 127; x is x_zero outside the image. A tensor of scale s
// and zero point z stands for s * (u8 - z): z = 0 after a ReLU, 128 for what is signed. bias is that of the
// layer in units of scale_x * scale_weight[k], less x_zero times the sum of channel k's weights;
// multiplier[k] is scale_x * scale_weight[k] / scale_y. float() and each of the two multiplications and the
// addition round to nearest even, as does round(): every kernel gives the same bits. |f| must stay below
// 2^31.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/isa.h"

namespace fastcnn {

struct Int8Conv2dProblem {
  int32_t has_residual, float_output, relu;
  int64_t N, H, W, C;
  int64_t K, R, S, P, Q;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
  int64_t x_stride, y_stride, residual_stride;  // pixel strides, in elements
  int32_t x_zero, y_zero, residual_zero, low, high;
  float residual_scale;
};

struct Int8Conv2dKernel {
  int64_t (*packed_bytes)(const Int8Conv2dProblem& problem);
  void (*pack)(const Int8Conv2dProblem& problem, const int8_t* weight, const int32_t* bias,
               const float* multiplier, void* packed);
  void (*run)(const Int8Conv2dProblem& problem, const uint8_t* x, const void* packed, const uint8_t* residual,
              void* y, int threads);
};

// Names of the kernels, best first. depthwise: one channel a group; amx: an instruction multiplies tiles of 16
// rows by 64 bytes; vnni: one adds four products; pairs: two, of bytes widened to 16 bits, because vpmaddubsw
// saturates (255 * 127 * 2 > 32767).
std::vector<std::string> conv2d_int8_kernels();

// One problem and one kernel; immutable, so several threads may run it at once.
class Int8Conv2d {
 public:
  // Throws std::invalid_argument if the problem makes no sense or the kernel cannot compute it here. name ""
  // is the best.
  explicit Int8Conv2d(const Int8Conv2dProblem& problem, const std::string& name = "");

  const Int8Conv2dProblem& problem() const { return problem_; }
  const char* name() const { return name_; }
  int64_t packed_bytes() const { return kernel_->packed_bytes(problem_); }
  // weight: [K][C / groups][R][S]; bias and multiplier: [K]. All three go into `packed`.
  void pack(const int8_t* weight, const int32_t* bias, const float* multiplier, void* packed) const {
    kernel_->pack(problem_, weight, bias, multiplier, packed);
  }
  void run(const uint8_t* x, const void* packed, const uint8_t* residual, void* y, int threads) const {
    kernel_->run(problem_, x, packed, residual, y, threads);
  }

 private:
  Int8Conv2dProblem problem_;
  const char* name_;
  const Int8Conv2dKernel* kernel_;
};

}  // namespace fastcnn

FASTCNN_FOR_EACH_ISA(extern const Int8Conv2dKernel int8_conv2d, int8_depthwise_conv2d)

#if defined(__x86_64__)
namespace fastcnn::avx512_vnni {
extern const Int8Conv2dKernel int8_conv2d;
}
namespace fastcnn::amx {
extern const Int8Conv2dKernel int8_conv2d;
}
#endif
