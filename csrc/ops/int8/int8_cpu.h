// What lies between convolutions of bytes (ops/conv2d_int8/conv2d_int8.h says what a scale and a zero point
// are). Every product, sum and quotient written here is rounded to fp32 once, to nearest even, as round() is.
#pragma once

#include <cstdint>

#include "base/problem.h"
#include "cpu/isa.h"

namespace fastcnn {

// y[n, pixel, c] = clamp(round(x[n, pixel, c] * inverse_scale) + zero, 0, 255); NaN becomes 0. x may lie in
// any order: element (n, pixel, c) is at n * x_image + pixel * x_stride + c * x_channel.
struct QuantizeProblem {
  int64_t N, pixels, C;  // pixels of an image
  int64_t x_image, x_stride, x_channel, y_stride;
  float inverse_scale;
  int32_t zero;
};

// y[pixel, c] = float(x[pixel, c] - zero) * scale
struct DequantizeProblem {
  int64_t pixels, C, x_stride, y_stride;
  float scale;
  int32_t zero;
};

// y[pixel, c] = table[x[pixel, c]]: any function of a byte, another scale among them.
struct ByteTableProblem {
  int64_t pixels, C, x_stride, y_stride;
};

// y = clamp(round(float(a - a_zero) * a_scale + float(b - b_zero) * b_scale) + y_zero, low, high), the scales
// over y's.
struct Int8AddProblem {
  int64_t pixels, C, a_stride, b_stride, y_stride;
  float a_scale, b_scale;
  int32_t a_zero, b_zero, y_zero, low, high;
};

// Max: the largest byte of the window; scale and zero point stay. Average, over the window's `count`
// positions, inside the image or, with count_include_pad, also in the padding:
//   y = clamp(round(float(sum over positions inside of (x - x_zero)) * (scale / float(count))) + y_zero, 0,
//   255)
struct Int8PoolProblem {
  PoolMode mode;
  int64_t N, H, W, C, P, Q;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int32_t count_include_pad;
  int64_t divisor_override;
  int64_t x_stride, y_stride;
  float scale;
  int32_t x_zero, y_zero;
};

}  // namespace fastcnn

FASTCNN_FOR_EACH_ISA(
    void quantize(const QuantizeProblem& problem, const float* x, uint8_t* y, int threads);
    void dequantize(const DequantizeProblem& problem, const uint8_t* x, float* y, int threads);
    void byte_table(const ByteTableProblem& problem, const uint8_t* x, const uint8_t* table, uint8_t* y,
                    int threads);
    void int8_add(const Int8AddProblem& problem, const uint8_t* a, const uint8_t* b, uint8_t* y, int threads);
    void int8_pool2d(const Int8PoolProblem& problem, const uint8_t* x, uint8_t* y, int threads))
