// The operations of simd.h that AVX-512 has instructions for.
#pragma once

#include <immintrin.h>

#include "cpu/vec.h"

namespace fastcnn::FASTCNN_ISA {

FASTCNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
FASTCNN_INLINE Vec max(Vec a, Vec b) { return (Vec)_mm512_max_ps((__m512)a, (__m512)b); }
FASTCNN_INLINE Vec min(Vec a, Vec b) { return (Vec)_mm512_min_ps((__m512)a, (__m512)b); }
FASTCNN_INLINE Vec sqrt(Vec a) { return (Vec)_mm512_sqrt_ps((__m512)a); }

FASTCNN_INLINE Vec permute(Vec a, IntVec from) {
  return (Vec)_mm512_permutexvar_ps((__m512i)from, (__m512)a);
}

FASTCNN_INLINE Vec widen(HalfVec a, Float16) { return (Vec)_mm512_cvtph_ps((__m256i)a); }
FASTCNN_INLINE HalfVec shorten(Vec a, Float16) {
  return (HalfVec)_mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT);
}

#if defined(__AVX512BF16__)
FASTCNN_INLINE HalfVec shorten(Vec a, BFloat16) { return (HalfVec)_mm512_cvtneps_pbh((__m512)a); }

// c plus the products of two BFloat16 each: lane i of a and b holds elements 2i and 2i + 1 of a dot product.
// Sums are fp32; denormal numbers count as 0.
FASTCNN_INLINE Vec dot_pairs(IntVec a, IntVec b, Vec c) {
  return (Vec)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}
#else
FASTCNN_INLINE HalfVec shorten(Vec a, BFloat16) { return round_to_bfloat16(a); }
#endif

FASTCNN_INLINE Vec load_partial(const float* p, int count) {
  return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
}
FASTCNN_INLINE void store_partial(float* p, Vec a, int count) {
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)a);
}

FASTCNN_INLINE void stream(float* p, Vec a) { _mm512_stream_ps(p, (__m512)a); }
FASTCNN_INLINE void stream_half(void* p, HalfVec a) { _mm256_stream_si256((__m256i*)p, (__m256i)a); }
FASTCNN_INLINE void stream_end() { _mm_sfence(); }

}  // namespace fastcnn::FASTCNN_ISA
