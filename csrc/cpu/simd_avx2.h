// The operations of simd.h that AVX2, FMA and F16C have instructions for.
#pragma once

#include <immintrin.h>

#include "cpu/vec.h"

namespace fastcnn::FASTCNN_ISA {

FASTCNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
FASTCNN_INLINE Vec max(Vec a, Vec b) { return (Vec)_mm256_max_ps((__m256)a, (__m256)b); }
FASTCNN_INLINE Vec min(Vec a, Vec b) { return (Vec)_mm256_min_ps((__m256)a, (__m256)b); }
FASTCNN_INLINE Vec sqrt(Vec a) { return (Vec)_mm256_sqrt_ps((__m256)a); }

FASTCNN_INLINE Vec permute(Vec a, IntVec from) {
  return (Vec)_mm256_permutevar8x32_ps((__m256)a, (__m256i)from);
}

FASTCNN_INLINE Vec widen(HalfVec a, Float16) { return (Vec)_mm256_cvtph_ps((__m128i)a); }
FASTCNN_INLINE HalfVec shorten(Vec a, Float16) {
  return (HalfVec)_mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT);
}
FASTCNN_INLINE HalfVec shorten(Vec a, BFloat16) { return round_to_bfloat16(a); }

FASTCNN_INLINE __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FASTCNN_INLINE Vec load_partial(const float* p, int count) {
  return (Vec)_mm256_maskload_ps(p, first_lanes(count));
}
FASTCNN_INLINE void store_partial(float* p, Vec a, int count) {
  _mm256_maskstore_ps(p, first_lanes(count), (__m256)a);
}

FASTCNN_INLINE void stream(float* p, Vec a) { _mm256_stream_ps(p, (__m256)a); }
FASTCNN_INLINE void stream_half(void* p, HalfVec a) { _mm_stream_si128((__m128i*)p, (__m128i)a); }
FASTCNN_INLINE void stream_end() { _mm_sfence(); }

}  // namespace fastcnn::FASTCNN_ISA
