// The operators' problems as plain structs: everything a kernel needs to know except the pointers.
//
// Python fills one, the host code chooses a kernel from it, and the kernel receives it by value. The same
// definitions are compiled by the C++ compiler, by nvcc and by the CUDA emulator, so nothing here depends
// on torch, on CUDA or on the standard library beyond fixed-width integers.
//
// Layout. Every activation is channels_last: element (n, h, w, c) of a tensor lies at
//   data[((n * H + h) * W + w) * pixel_stride + c],
// where pixel_stride >= C. A pixel_stride larger than C is a channel slice of a wider tensor: that is how
// branches are written straight into a concatenated tensor.
#pragma once

#include <cstdint>

#include "base/activation_list.h"

namespace fastcnn {

enum class DType : int32_t { float32 = 0, float16 = 1, bfloat16 = 2 };

#define FASTCNN_ROW(name, number, increasing, cpu, gpu) name = number,
enum class Activation : int32_t { FASTCNN_ACTIVATIONS(FASTCNN_ROW) };
#undef FASTCNN_ROW

// Whether max(act(a), act(b)) = act(max(a, b)): where it is, a maximum over windows may be taken first.
static constexpr bool is_increasing(Activation activation) {
#define FASTCNN_ROW(name, number, increasing, cpu, gpu) \
  if (activation == Activation::name) return increasing;
  FASTCNN_ACTIVATIONS(FASTCNN_ROW)
#undef FASTCNN_ROW
  return false;
}

enum class PoolMode : int32_t { max = 0, average = 1 };

// y[n, p, q, k] = act(bias[k] + residual[n, p, q, k]
//                     + sum_{r, s, c} x[n, h, w, g * C / groups + c] * weight[k, c, r, s])
//   with h = p * stride_h - pad_h + r * dilation_h, w likewise; x is 0 outside the image.
// pad_h and pad_w are the padding above and to the left;
// what lies below and to the right follows from P and Q.
struct Conv2dProblem {
  DType dtype;
  Activation activation;
  int32_t has_bias, has_residual;
  int64_t N, H, W, C;
  int64_t K, R, S, P, Q;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
  int64_t x_stride, y_stride, residual_stride;  // pixel strides, in elements
};

// Max: y = max over the window, padding never wins, NaN wins over everything (as in PyTorch).
// Average: y = sum over the window / divisor; the divisor is divisor_override if that is not 0, else the
//   number of positions in the window, counting padding only if count_include_pad.
struct Pool2dProblem {
  DType dtype;
  PoolMode mode;
  int64_t N, H, W, C, P, Q;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int32_t count_include_pad;
  int64_t divisor_override;
  int64_t x_stride, y_stride;
};

// Window (p) is [floor(p*H/P), ceil((p+1)*H/P)); y is the mean over it.
struct AdaptiveAvgPool2dProblem {
  DType dtype;
  int64_t N, H, W, C, P, Q;
  int64_t x_stride, y_stride;
};

// y[c] = x[c] * (k + alpha/size * sum_{c' in window(c)} x[c']^2)^-beta
//   window(c) = [c - size/2, c + (size - 1)/2], clipped to [0, C).
struct LrnProblem {
  DType dtype;
  int64_t pixels, C, size;
  float alpha, beta, k;
  int64_t x_stride, y_stride;
};

// y[n, p, q, c] = act(bias[c] + coefficient[c] * sum over the kernel_size x kernel_size block of x)
//   P = H / kernel_size, Q = W / kernel_size, rounded down.
struct Subsample2dProblem {
  DType dtype;
  Activation activation;
  int64_t N, H, W, C, P, Q, kernel_size;
  int64_t x_stride, y_stride;
};

// y[pixel, c] = x[pixel, c]: one input of a concatenation, copied into its channel slice.
struct CopySliceProblem {
  int64_t element_size;
  int64_t pixels, C;
  int64_t x_stride, y_stride;
};

// y[i] = max(a[i] + b[i], 0), NaN kept.
struct AddReluProblem {
  DType dtype;
  int64_t pixels, C;
  int64_t a_stride, b_stride, y_stride;
};

// y[n, m] = act(bias[m] + sum_d x[n, d] * weight[m, d]); rows of x, weight and y may be strided.
struct LinearProblem {
  DType dtype, weight_dtype;
  Activation activation;
  int32_t has_bias;
  int64_t N, D, M;
  int64_t x_stride, weight_stride, y_stride;
};

// y[n, m] = sum_d (x[n, d] - centers[m, d])^2, summed as written: the expanded form cancels.
struct RbfProblem {
  DType dtype;
  int64_t N, D, M;
  int64_t x_stride, y_stride;
};

// An activation, y[pixel, c] = act(a[pixel, c]), under its number. Of two operands: add, y = a + b;
// scale_channels, y[pixel, c] = a[pixel, c] * b[pixel / pixels_per_image, c] (squeeze and excitation).
#define FASTCNN_ROW(name, number, increasing, cpu, gpu) name = number,
enum class Elementwise : int32_t { FASTCNN_ACTIVATIONS(FASTCNN_ROW) add = 1000, scale_channels = 1001 };
#undef FASTCNN_ROW

struct ElementwiseProblem {
  DType dtype;
  Elementwise function;
  int64_t pixels, C;
  int64_t a_stride, b_stride, y_stride;
  int64_t pixels_per_image;  // for scale_channels
};

// A contiguous NCHW tensor and a channels_last one, copied into each other.
struct LayoutProblem {
  int64_t element_size;  // 2 or 4
  int64_t N, H, W, C;
  int64_t pixel_stride;  // of the channels_last side
};

}  // namespace fastcnn
