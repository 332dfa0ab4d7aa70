// The microkernel under the gradients of a convolution's weight: sums of outer products over pixels or tiles.
#pragma once

#include "cpu/gemm.h"

namespace fastcnn::FASTCNN_ISA {

// sums[i][j] += dy[pixel][i] * x[pixel][j] over lines of `pixels` pixels; with `begin` the sums are new.
template <int MR, int NV>
static __attribute__((noinline)) void add_products(int64_t lines, int64_t pixels, const float* x,
                                                   int64_t x_step, int64_t x_line, const float* dy,
                                                   int64_t dy_step, float* sums, int64_t sums_stride,
                                                   bool begin) {
  Vec acc[MR][NV];
  FASTCNN_UNROLL for (int i = 0; i < MR; ++i) FASTCNN_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] =
      begin ? zero() : load(sums + i * sums_stride + j * kWidth);
  for (int64_t line = 0; line < lines; ++line, x += x_line) {
    const float* column = x;
    for (int64_t q = 0; q < pixels; ++q, column += x_step, dy += dy_step) {
      Vec value[NV];
      FASTCNN_UNROLL for (int j = 0; j < NV; ++j) value[j] = load(column + j * kWidth);
      FASTCNN_UNROLL for (int i = 0; i < MR; ++i) {
        const Vec g = broadcast(dy[i]);
        FASTCNN_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = fma(g, value[j], acc[i][j]);
      }
    }
  }
  FASTCNN_UNROLL for (int i = 0; i < MR; ++i) FASTCNN_UNROLL for (int j = 0; j < NV; ++j)
      store(sums + i * sums_stride + j * kWidth, acc[i][j]);
}

template <int MR = kRows, class... Arguments>
static inline void add_rows(int rows, int vecs, Arguments... arguments) {
  if constexpr (MR > 1)
    if (rows < MR) return add_rows<MR - 1>(rows, vecs, arguments...);
  if (vecs == 1) return add_products<MR, 1>(arguments...);
  if constexpr (kVecs > 2) {
    if (vecs == 3) return add_products<MR, 3>(arguments...);
    if (vecs == 4) return add_products<MR, 4>(arguments...);
  }
  add_products<MR, 2>(arguments...);
}

}  // namespace fastcnn::FASTCNN_ISA
