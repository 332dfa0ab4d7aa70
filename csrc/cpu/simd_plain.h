// The operations of simd.h that take an instruction elsewhere, in plain C++: for a processor that has no
// header of its own.
#pragma once

#include "cpu/simd_128.h"

namespace fastcnn::FASTCNN_ISA {

FASTCNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
FASTCNN_INLINE Vec max(Vec a, Vec b) { return select(a > b, a, b); }
FASTCNN_INLINE Vec min(Vec a, Vec b) { return select(a < b, a, b); }
FASTCNN_INLINE Vec sqrt(Vec a) {
  for (int i = 0; i < kWidth; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}

FASTCNN_INLINE Vec widen(HalfVec a, Float16) { return widen_float16(a); }
FASTCNN_INLINE HalfVec shorten(Vec a, Float16) { return round_to_float16(a); }

FASTCNN_INLINE void stream(float* p, Vec a) { store(p, a); }
FASTCNN_INLINE void stream_half(void* p, HalfVec a) { *(UnalignedHalfVec*)p = a; }
FASTCNN_INLINE void stream_end() {}

}  // namespace fastcnn::FASTCNN_ISA
