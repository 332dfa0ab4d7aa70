// How sums of products of bytes leave the registers: multiplied, the residual added, rounded, and packed.
//
// Lane 4 L + i of vector j holds channel 4 NV L + 4 j + i of a panel of NV vectors: packing vectors to words
// and words to bytes, each within 16 bytes, then leaves whole fours to be moved, by one permutation.
#pragma once

#include "cpu/bytes.h"
#include "cpu/gemm.h"
#include "ops/conv2d_int8/conv2d_int8.h"

namespace fastcnn::FASTCNN_ISA {

template <int NV>
FASTCNN_INLINE int channel_of(int vector, int lane) {
  return 4 * NV * (lane / 4) + 4 * vector + lane % 4;
}

// Fours of bytes: from within each 16 bytes to one after the other, and back.
template <int NV>
FASTCNN_INLINE IntVec together(IntVec a) {
  if constexpr (NV == 4 || kWidth == 4) return a;
  IntVec from;
  for (int i = 0; i < kWidth; ++i) from[i] = i < NV * kWidth / 4 ? i / NV * 4 + i % NV : 0;
  return as_int(permute(as_float(a), from));
}
template <int NV>
FASTCNN_INLINE IntVec apart(IntVec a) {
  if constexpr (NV == 4 || kWidth == 4) return a;
  IntVec from;
  for (int i = 0; i < kWidth; ++i) from[i] = i % 4 < NV ? i / 4 * NV + i % 4 : 0;
  return as_int(permute(as_float(a), from));
}

template <int NV>
FASTCNN_INLINE IntVec load_columns(const uint8_t* p, int columns) {
  IntVec a = {};
  if (columns == NV * kWidth)
    __builtin_memcpy(&a, p, NV * kWidth);
  else
#if FASTCNN_SIMD_BYTES == 64
    a = (IntVec)_mm512_maskz_loadu_epi8(((uint64_t)1 << columns) - 1, p);
#else
    __builtin_memcpy(&a, p, columns);
#endif
  return a;
}
template <int NV>
FASTCNN_INLINE void store_columns(uint8_t* p, IntVec a, int columns) {
  if (columns == NV * kWidth) __builtin_memcpy(p, &a, NV * kWidth);
#if FASTCNN_SIMD_BYTES == 64
  else
    _mm512_mask_storeu_epi8(p, ((uint64_t)1 << columns) - 1, (__m512i)a);
#else
  else
    __builtin_memcpy(p, &a, columns);
#endif
}

// What happens to a tile on its way out; pixels lie y_stride elements apart.
struct Int8Output {
  const Int8Conv2dProblem* problem;
  const uint8_t* residual;
  void* y;

  Int8Output at(int64_t row, int64_t column) const {
    const int64_t size = problem->float_output ? 4 : 1;
    return {problem, residual ? residual + row * problem->residual_stride + column : nullptr,
            static_cast<char*>(y) + (row * problem->y_stride + column) * size};
  }
};

template <int MR, int NV>
FASTCNN_INLINE void finish_floats(IntVec (&acc)[MR][NV], const char* constants, int columns,
                                  const Int8Output& out) {
  alignas(64) float sums[MR][NV * kWidth];
  FASTCNN_UNROLL for (int j = 0; j < NV; ++j) {
    const Vec multiplier = load((const float*)constants + j * kWidth);
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) {
      Vec f = to_float(acc[i][j]) * multiplier;
      if (out.problem->relu) f = max(zero(), f);
      store(sums[i] + j * kWidth, f);
    }
  }
  float* y = static_cast<float*>(out.y);
  for (int i = 0; i < MR; ++i, y += out.problem->y_stride)
    for (int j = 0; j < NV; ++j)
      for (int lane = 0; lane < kWidth; ++lane)
        if (const int k = channel_of<NV>(j, lane); k < columns) y[k] = sums[i][j * kWidth + lane];
}

template <int MR, int NV>
FASTCNN_INLINE void finish_bytes(IntVec (&acc)[MR][NV], const char* constants, int columns,
                                 const Int8Output& out) {
  const Int8Conv2dProblem& p = *out.problem;
  FASTCNN_UNROLL for (int j = 0; j < NV; ++j) {
    const Vec multiplier = load((const float*)constants + j * kWidth);
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) acc[i][j] = as_int(to_float(acc[i][j]) * multiplier);
  }
  const IntVec y_zero = broadcast_int(p.y_zero * 0x10001), low = broadcast_int(p.low * 0x1010101),
               high = broadcast_int(p.high * 0x1010101);
  uint8_t* y = static_cast<uint8_t*>(out.y);
  FASTCNN_UNROLL for (int i = 0; i < MR; ++i) {
    IntVec v[4] = {};
    FASTCNN_UNROLL for (int j = 0; j < NV; ++j) v[j] = acc[i][j];
    if (out.residual) {
      const IntVec bytes = apart<NV>(load_columns<NV>(out.residual + i * p.residual_stride, columns));
      const IntVec first = low_bytes(bytes), second = high_bytes(bytes);
      const IntVec words[4] = {low_words(first), high_words(first), low_words(second), high_words(second)};
      const Vec scale = broadcast(p.residual_scale);
      FASTCNN_UNROLL for (int j = 0; j < NV; ++j) v[j] =
          as_int(as_float(v[j]) + to_float(words[j] - p.residual_zero) * scale);
    }
    FASTCNN_UNROLL for (int j = 0; j < NV; ++j) v[j] = to_nearest(as_float(v[j]));
    const IntVec a = add_words(pack_words(v[0], v[1]), y_zero);
    const IntVec b = NV > 2 ? add_words(pack_words(v[2], v[3]), y_zero) : a;
    const IntVec bytes = min_bytes(high, max_bytes(low, pack_bytes(a, b)));
    store_columns<NV>(y + i * p.y_stride, together<NV>(bytes), columns);
  }
}

}  // namespace fastcnn::FASTCNN_ISA
