// The operations of simd.h that SSE2 has instructions for, which every x86-64 processor has.
#pragma once

#include <immintrin.h>

#include "cpu/simd_128.h"

namespace fastcnn::FASTCNN_ISA {

// SSE2 cannot round once.
FASTCNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
FASTCNN_INLINE Vec max(Vec a, Vec b) { return (Vec)_mm_max_ps((__m128)a, (__m128)b); }
FASTCNN_INLINE Vec min(Vec a, Vec b) { return (Vec)_mm_min_ps((__m128)a, (__m128)b); }
FASTCNN_INLINE Vec sqrt(Vec a) { return (Vec)_mm_sqrt_ps((__m128)a); }

FASTCNN_INLINE Vec widen(HalfVec a, Float16) { return widen_float16(a); }
FASTCNN_INLINE HalfVec shorten(Vec a, Float16) { return round_to_float16(a); }

FASTCNN_INLINE void stream(float* p, Vec a) { _mm_stream_ps(p, (__m128)a); }
FASTCNN_INLINE void stream_half(void* p, HalfVec a) { _mm_stream_si64((long long*)p, (long long)a); }
FASTCNN_INLINE void stream_end() { _mm_sfence(); }

}  // namespace fastcnn::FASTCNN_ISA
