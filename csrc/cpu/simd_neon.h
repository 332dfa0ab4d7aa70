// The operations of simd.h that NEON has instructions for, which every 64-bit ARM processor has.
#pragma once

#include <arm_neon.h>

#include "cpu/simd_128.h"

namespace fastcnn::FASTCNN_ISA {

FASTCNN_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
// FMAX and FMIN return NaN for any NaN, which is not what is promised.
FASTCNN_INLINE Vec max(Vec a, Vec b) { return select(a > b, a, b); }
FASTCNN_INLINE Vec min(Vec a, Vec b) { return select(a < b, a, b); }
FASTCNN_INLINE Vec sqrt(Vec a) { return (Vec)vsqrtq_f32((float32x4_t)a); }

FASTCNN_INLINE Vec widen(HalfVec a, Float16) { return (Vec)vcvt_f32_f16((float16x4_t)a); }
FASTCNN_INLINE HalfVec shorten(Vec a, Float16) { return (HalfVec)vcvt_f16_f32((float32x4_t)a); }

// Non-temporal stores are a hint that current processors ignore.
FASTCNN_INLINE void stream(float* p, Vec a) { store(p, a); }
FASTCNN_INLINE void stream_half(void* p, HalfVec a) { *(UnalignedHalfVec*)p = a; }
FASTCNN_INLINE void stream_end() {}

}  // namespace fastcnn::FASTCNN_ISA
