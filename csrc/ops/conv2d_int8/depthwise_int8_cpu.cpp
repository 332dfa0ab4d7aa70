// Convolution of bytes with one channel a group, channels side by side in the lanes.
//
// Sums of up to 512 products of bytes are exact in fp32 (512 * 255 * 127 < 2^24), where a multiply and an add
// are one instruction on 16 lanes; the bias is added to the sum as an integer.
#include "cpu/bytes.h"
#include "cpu/thread_pool.h"
#include "ops/conv2d_int8/conv2d_int8.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

using Problem = Int8Conv2dProblem;

int64_t vectors(const Problem& p) { return (p.C + kWidth - 1) / kWidth; }

// [vector][tap + bias + multiplier][lane]: fp32, the bias an int32.
int64_t packed_bytes(const Problem& p) { return vectors(p) * (p.R * p.S + 2) * kWidth * 4; }

void pack(const Problem& p, const int8_t* weight, const int32_t* bias, const float* multiplier,
          void* packed) {
  const int64_t taps = p.R * p.S;
  float* to = static_cast<float*>(packed);
  for (int64_t v = 0; v < vectors(p); ++v)
    for (int64_t row = 0; row < taps + 2; ++row)
      for (int lane = 0; lane < kWidth; ++lane, ++to) {
        const int64_t c = v * kWidth + lane;
        *to = 0;
        if (c >= p.C) continue;
        if (row < taps)
          *to = weight[c * taps + row];
        else if (row == taps)
          __builtin_memcpy(to, bias + c, 4);
        else
          *to = multiplier[c];
      }
}

// One output pixel's vector of channels.
FASTCNN_INLINE void pixel(const Problem& p, const uint8_t* x, const float* packed, int lanes, int64_t h,
                          int64_t w, const uint8_t* residual, uint8_t* y) {
  const Vec x_zero = broadcast((float)p.x_zero);
  Vec sum = zero();
  for (int64_t r = 0; r < p.R; ++r, h += p.dilation_h)
    for (int64_t s = 0; s < p.S; ++s, packed += kWidth) {
      const int64_t column = w + s * p.dilation_w;
      Vec value = x_zero;
      if (h >= 0 && h < p.H && column >= 0 && column < p.W) {
        const uint8_t* at = x + (h * p.W + column) * p.x_stride;
        value = to_float(lanes == kWidth ? load_bytes(at) : load_bytes_partial(at, lanes));
      }
      sum = fma(value, load(packed), sum);
    }
  Vec f = to_float(to_nearest(sum) + load_ints(packed)) * load(packed + kWidth);
  if (p.float_output) {
    if (p.relu) f = max(zero(), f);
    return lanes == kWidth ? store((float*)y, f) : store_partial((float*)y, f, lanes);
  }
  if (residual) {
    const IntVec bytes = lanes == kWidth ? load_bytes(residual) : load_bytes_partial(residual, lanes);
    f += to_float(bytes - p.residual_zero) * broadcast(p.residual_scale);
  }
  const IntVec result = clamp(clamp(to_nearest(f), -512, 512) + p.y_zero, p.low, p.high);
  if (lanes == kWidth)
    store_bytes(y, result);
  else
    store_bytes_partial(y, result, lanes);
}

void run(const Problem& p, const uint8_t* x, const void* packed, const uint8_t* residual, void* y,
         int threads) {
  const int64_t rows = p.N * p.P, size = p.float_output ? 4 : 1, panel = (p.R * p.S + 2) * kWidth;
  threads = threads_for_bytes(threads, rows * p.Q * p.C * p.R * p.S);
  parallel_for(threads, rows, [&](int64_t row, int) {
    const uint8_t* image = x + row / p.P * p.H * p.W * p.x_stride;
    const int64_t h = row % p.P * p.stride_h - p.pad_h;
    for (int64_t v = 0; v < vectors(p); ++v) {
      const int64_t c = v * kWidth;
      const int lanes = (int)min_of<int64_t>(kWidth, p.C - c);
      for (int64_t q = 0; q < p.Q; ++q) {
        const int64_t at = row * p.Q + q;
        pixel(p, image + c, static_cast<const float*>(packed) + v * panel, lanes, h, q * p.stride_w - p.pad_w,
              p.has_residual ? residual + at * p.residual_stride + c : nullptr,
              static_cast<uint8_t*>(y) + (at * p.y_stride + c) * size);
      }
    }
  });
}

}  // namespace

extern const Int8Conv2dKernel int8_depthwise_conv2d{packed_bytes, pack, run};

}  // namespace fastcnn::FASTCNN_ISA
