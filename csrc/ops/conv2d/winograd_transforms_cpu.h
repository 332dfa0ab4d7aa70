// Winograd's transforms, F(M, R): M outputs of an R-tap kernel from A = M + R - 1 inputs along one side.
//
// input is Bt, output At, kG is G (winograd_cpu.cpp has the formula); output_adjoint is A, for the gradient
// of the weight (winograd_weight_gradient_cpu.cpp).
#pragma once

#include "cpu/gemm.h"
#include "ops/conv2d/kernels_cpu.h"

namespace fastcnn::FASTCNN_ISA {

FASTCNN_INLINE Vec fma(Vec a, float b, Vec c) { return FASTCNN_ISA::fma(a, broadcast(b), c); }

// Interpolation at 0, 1, -1, infinity.
struct F2x3 {
  static constexpr int kTile = 2, kKernel = 3;
  static constexpr double kG[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};

  FASTCNN_INLINE void input(const Vec* d, Vec* v) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[1] - d[3];
  }
  FASTCNN_INLINE void output(const Vec* m, Vec* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  }
};

// Interpolation at 0, 1, -1, 2, -2, infinity.
struct F4x3 {
  static constexpr int kTile = 4, kKernel = 3;
  static constexpr double kG[6][3] = {{1. / 4, 0, 0},
                                      {-1. / 6, -1. / 6, -1. / 6},
                                      {-1. / 6, 1. / 6, -1. / 6},
                                      {1. / 24, 1. / 12, 1. / 6},
                                      {1. / 24, -1. / 12, 1. / 6},
                                      {0, 0, 1}};

  FASTCNN_INLINE void input(const Vec* d, Vec* v) {
    const Vec even = fma(d[2], -4.f, d[4]), odd = fma(d[1], -4.f, d[3]);
    const Vec even2 = d[4] - d[2], odd2 = d[3] - d[1];
    v[0] = fma(d[0], 4.f, fma(d[2], -5.f, d[4]));
    v[1] = even + odd;
    v[2] = even - odd;
    v[3] = fma(odd2, 2.f, even2);
    v[4] = fma(odd2, -2.f, even2);
    v[5] = fma(d[1], 4.f, fma(d[3], -5.f, d[5]));
  }
  FASTCNN_INLINE void output(const Vec* m, Vec* y) {
    const Vec sum1 = m[1] + m[2], difference1 = m[1] - m[2];
    const Vec sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    y[0] = m[0] + sum1 + sum2;
    y[1] = fma(difference2, 2.f, difference1);
    y[2] = fma(sum2, 4.f, sum1);
    y[3] = fma(difference2, 8.f, difference1) + m[5];
  }
  FASTCNN_INLINE void output_adjoint(const Vec* y, Vec* m) {
    const Vec sum1 = y[0] + y[2], difference1 = y[1] + y[3];
    const Vec sum2 = fma(y[2], 4.f, y[0]), difference2 = fma(y[3], 8.f, y[1] + y[1]);
    m[0] = y[0];
    m[1] = sum1 + difference1;
    m[2] = sum1 - difference1;
    m[3] = sum2 + difference2;
    m[4] = sum2 - difference2;
    m[5] = y[3];
  }
};

// Interpolation at 0, 1, -1, 2, -2, 1/2, -1/2, infinity.
FASTCNN_INLINE void input8(const Vec* d, Vec* v) {
  v[0] = fma(d[4] - d[2], 5.25f, d[0] - d[6]);
  v[7] = fma(d[3] - d[5], 5.25f, d[7] - d[1]);
  const Vec even1 = fma(d[4], -4.25f, d[2] + d[6]), odd1 = fma(d[3], -4.25f, d[1] + d[5]);
  v[1] = even1 + odd1;
  v[2] = even1 - odd1;
  const Vec even2 = fma(d[4], -1.25f, fma(d[2], .25f, d[6]));
  const Vec odd2 = fma(d[5], 2.f, fma(d[3], -2.5f, d[1] * .5f));
  v[3] = even2 + odd2;
  v[4] = even2 - odd2;
  const Vec even3 = fma(fma(d[4], -1.25f, d[2]), 4.f, d[6]);
  const Vec odd3 = fma(d[5], .5f, fma(d[3], -2.5f, d[1] + d[1]));
  v[5] = even3 + odd3;
  v[6] = even3 - odd3;
}

struct F6x3 {
  static constexpr int kTile = 6, kKernel = 3;
  static constexpr double kG[8][3] = {{1, 0, 0},
                                      {-2. / 9, -2. / 9, -2. / 9},
                                      {-2. / 9, 2. / 9, -2. / 9},
                                      {1. / 90, 1. / 45, 2. / 45},
                                      {1. / 90, -1. / 45, 2. / 45},
                                      {32. / 45, 16. / 45, 8. / 45},
                                      {32. / 45, -16. / 45, 8. / 45},
                                      {0, 0, 1}};

  FASTCNN_INLINE void input(const Vec* d, Vec* v) { input8(d, v); }
  FASTCNN_INLINE void output(const Vec* m, Vec* y) {
    const Vec sum1 = m[1] + m[2], difference1 = m[1] - m[2];
    const Vec sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    const Vec sum3 = m[5] + m[6], difference3 = m[5] - m[6];
    y[0] = m[0] + sum1 + sum2 + sum3;
    y[1] = fma(difference3, 1.f / 2, fma(difference2, 2.f, difference1));
    y[2] = fma(sum3, 1.f / 4, fma(sum2, 4.f, sum1));
    y[3] = fma(difference3, 1.f / 8, fma(difference2, 8.f, difference1));
    y[4] = fma(sum3, 1.f / 16, fma(sum2, 16.f, sum1));
    y[5] = fma(difference3, 1.f / 32, fma(difference2, 32.f, difference1)) + m[7];
  }
};

struct F4x5 {
  static constexpr int kTile = 4, kKernel = 5;
  static constexpr double kG[8][5] = {{1, 0, 0, 0, 0},
                                      {-2. / 9, -2. / 9, -2. / 9, -2. / 9, -2. / 9},
                                      {-2. / 9, 2. / 9, -2. / 9, 2. / 9, -2. / 9},
                                      {1. / 90, 1. / 45, 2. / 45, 4. / 45, 8. / 45},
                                      {1. / 90, -1. / 45, 2. / 45, -4. / 45, 8. / 45},
                                      {32. / 45, 16. / 45, 8. / 45, 4. / 45, 2. / 45},
                                      {32. / 45, -16. / 45, 8. / 45, -4. / 45, 2. / 45},
                                      {0, 0, 0, 0, 1}};

  FASTCNN_INLINE void input(const Vec* d, Vec* v) { input8(d, v); }
  FASTCNN_INLINE void output(const Vec* m, Vec* y) {
    const Vec sum1 = m[1] + m[2], difference1 = m[1] - m[2];
    const Vec sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    const Vec sum3 = m[5] + m[6], difference3 = m[5] - m[6];
    y[0] = m[0] + sum1 + sum2 + sum3;
    y[1] = fma(difference3, 1.f / 2, fma(difference2, 2.f, difference1));
    y[2] = fma(sum3, 1.f / 4, fma(sum2, 4.f, sum1));
    y[3] = fma(difference3, 1.f / 8, fma(difference2, 8.f, difference1)) + m[7];
  }
  FASTCNN_INLINE void output_adjoint(const Vec* y, Vec* m) {
    const Vec sum1 = y[0] + y[2], difference1 = y[1] + y[3];
    const Vec sum2 = fma(y[2], 4.f, y[0]), difference2 = fma(y[3], 8.f, y[1] + y[1]);
    const Vec sum3 = fma(y[2], 1.f / 4, y[0]), difference3 = fma(y[3], 1.f / 8, y[1] * .5f);
    m[0] = y[0];
    m[1] = sum1 + difference1;
    m[2] = sum1 - difference1;
    m[3] = sum2 + difference2;
    m[4] = sum2 - difference2;
    m[5] = sum3 + difference3;
    m[6] = sum3 - difference3;
    m[7] = y[3];
  }
};

// Rows of V and of the products M are padded by a cache line, or all of them would share few L1 sets.
constexpr int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16 + 16; }
constexpr int64_t kPanelFloats = padded(kVecs * kWidth);

// Channels c0..c1-1 of one tile of kIn x kIn pixels, `transform`ed along both sides to kA x kA points:
// v[point * point_stride + c].
template <int kIn, int kA, class T, class Transform>
FASTCNN_INLINE void transform_tile(const T* const (&source)[kIn][kIn], int64_t c0, int64_t c1, float* v,
                                   int64_t point_stride, Transform&& transform) {
  for (int64_t c = c0; c < c1; c += kWidth) {
    const int lanes = static_cast<int>(min_of<int64_t>(kWidth, c1 - c));
    Vec half[kA][kIn];
    FASTCNN_UNROLL for (int j = 0; j < kIn; ++j) {
      Vec d[kIn], out[kA];
      if (lanes == kWidth) {
        FASTCNN_UNROLL for (int i = 0; i < kIn; ++i) d[i] = load(source[i][j] + c);
      } else {
        FASTCNN_UNROLL for (int i = 0; i < kIn; ++i) d[i] = load_partial(source[i][j] + c, lanes);
      }
      transform(d, out);
      FASTCNN_UNROLL for (int i = 0; i < kA; ++i) half[i][j] = out[i];
    }
    FASTCNN_UNROLL for (int i = 0; i < kA; ++i) {
      Vec out[kA];
      transform(half[i], out);
      FASTCNN_UNROLL for (int j = 0; j < kA; ++j) store(v + (i * kA + j) * point_stride + c, out[j]);
    }
  }
}

}  // namespace fastcnn::FASTCNN_ISA
