// Vec: FASTCNN_SIMD_BYTES of floats, for the instruction set this file is being compiled for.
//
// A GCC vector type, so + - * / and comparisons work as written, `mask ? a : b` selects lane by lane. Memory
// may hold float, Float16 or BFloat16; registers always hold float. Include it only in FASTCNN_ISA_SOURCES
// (cpu/isa.h says why everything here is inside the namespace FASTCNN_ISA).
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>

#include "base/problem.h"

#ifndef FASTCNN_ISA
#error "simd.h belongs in FASTCNN_ISA_SOURCES (cpu.cmake)"
#endif

#define FASTCNN_INLINE static inline __attribute__((always_inline))

namespace fastcnn::FASTCNN_ISA {

constexpr int kWidth = FASTCNN_SIMD_BYTES / 4;

typedef float Vec __attribute__((vector_size(FASTCNN_SIMD_BYTES)));
typedef int32_t IntVec __attribute__((vector_size(FASTCNN_SIMD_BYTES)));  // also what a comparison yields
typedef uint32_t UintVec __attribute__((vector_size(FASTCNN_SIMD_BYTES)));
typedef uint16_t HalfVec __attribute__((vector_size(FASTCNN_SIMD_BYTES / 2)));

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
FASTCNN_INLINE T min_of(T a, T b) {
  return a < b ? a : b;
}
template <class T>
FASTCNN_INLINE T max_of(T a, T b) {
  return a > b ? a : b;
}

FASTCNN_INLINE Vec zero() { return Vec{}; }
FASTCNN_INLINE Vec broadcast(float a) { return a - Vec{}; }
FASTCNN_INLINE Vec select(IntVec mask, Vec a, Vec b) { return mask ? a : b; }
FASTCNN_INLINE Vec as_float(IntVec a) { return (Vec)a; }
FASTCNN_INLINE IntVec as_int(Vec a) { return (IntVec)a; }
FASTCNN_INLINE Vec abs(Vec a) { return as_float(as_int(a) & 0x7fffffff); }
FASTCNN_INLINE IntVec is_nan(Vec a) { return a != a; }

// a * b + c, rounded once where the instruction exists (on the x86-64 baseline it does not).
FASTCNN_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if FASTCNN_SIMD_BYTES == 64
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FASTCNN_SIMD_BYTES == 32
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// The larger; b if either is NaN: so max(x, acc) skips NaN in x, and max(zero, x) is a ReLU that keeps NaN.
FASTCNN_INLINE Vec max(Vec a, Vec b) {
#if FASTCNN_SIMD_BYTES == 64
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif FASTCNN_SIMD_BYTES == 32
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (Vec)_mm_max_ps((__m128)a, (__m128)b);
#else
  return select(a > b, a, b);
#endif
}

// The smaller; b if either is NaN.
FASTCNN_INLINE Vec min(Vec a, Vec b) {
#if FASTCNN_SIMD_BYTES == 64
  return (Vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif FASTCNN_SIMD_BYTES == 32
  return (Vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (Vec)_mm_min_ps((__m128)a, (__m128)b);
#else
  return select(a < b, a, b);
#endif
}

FASTCNN_INLINE Vec sqrt(Vec a) {
#if FASTCNN_SIMD_BYTES == 64
  return (Vec)_mm512_sqrt_ps((__m512)a);
#elif FASTCNN_SIMD_BYTES == 32
  return (Vec)_mm256_sqrt_ps((__m256)a);
#elif defined(__SSE2__)
  return (Vec)_mm_sqrt_ps((__m128)a);
#else
  for (int i = 0; i < kWidth; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
#endif
}

// Lane i of the result is lane `from[i]` of a, 0 <= from[i] < kWidth.
FASTCNN_INLINE Vec permute(Vec a, IntVec from) {
#if FASTCNN_SIMD_BYTES == 64
  return (Vec)_mm512_permutexvar_ps((__m512i)from, (__m512)a);
#elif FASTCNN_SIMD_BYTES == 32
  return (Vec)_mm256_permutevar8x32_ps((__m256)a, (__m256i)from);
#else
  return __builtin_shuffle(a, from);
#endif
}

// The sums of the lanes of a, b, c and d in lanes 0 to 3 (and again in every further group of four).
FASTCNN_INLINE Vec sum4(Vec a, Vec b, Vec c, Vec d) {
  // Within each group of four lanes: interleave, add, interleave, add; then add the groups.
  IntVec low, high, first, second;
  for (int i = 0; i < kWidth; i += 4) {
    low[i] = i, low[i + 1] = i + kWidth, low[i + 2] = i + 1, low[i + 3] = i + 1 + kWidth;
    high[i] = i + 2, high[i + 1] = i + 2 + kWidth, high[i + 2] = i + 3, high[i + 3] = i + 3 + kWidth;
    first[i] = i, first[i + 1] = i + 1, first[i + 2] = i + kWidth, first[i + 3] = i + 1 + kWidth;
    second[i] = i + 2, second[i + 1] = i + 3, second[i + 2] = i + 2 + kWidth, second[i + 3] = i + 3 + kWidth;
  }
  const Vec ab = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
  const Vec cd = __builtin_shuffle(c, d, low) + __builtin_shuffle(c, d, high);
  Vec sums = __builtin_shuffle(ab, cd, first) + __builtin_shuffle(ab, cd, second);
#if FASTCNN_SIMD_BYTES == 64
  sums += (Vec)_mm512_shuffle_f32x4((__m512)sums, (__m512)sums, _MM_SHUFFLE(1, 0, 3, 2));
  sums += (Vec)_mm512_shuffle_f32x4((__m512)sums, (__m512)sums, _MM_SHUFFLE(2, 3, 0, 1));
#elif FASTCNN_SIMD_BYTES == 32
  sums += (Vec)_mm256_permute2f128_ps((__m256)sums, (__m256)sums, 1);
#endif
  return sums;
}

// Blocks of kStep lanes change places across the diagonal of squares of twice the size.
template <int kStep>
FASTCNN_INLINE void transpose_blocks(Vec (&v)[kWidth]) {
  IntVec low, high;
  for (int lane = 0; lane < kWidth; ++lane) {
    low[lane] = lane & kStep ? kWidth + lane - kStep : lane;
    high[lane] = lane & kStep ? kWidth + lane : lane + kStep;
  }
  _Pragma("GCC unroll 16") for (int i = 0; i < kWidth; ++i) {
    if (i & kStep) continue;
    const Vec a = v[i], b = v[i + kStep];
    v[i] = __builtin_shuffle(a, b, low);
    v[i + kStep] = __builtin_shuffle(a, b, high);
  }
}

// Lane i of v[j] becomes lane j of v[i].
FASTCNN_INLINE void transpose(Vec (&v)[kWidth]) {
  transpose_blocks<1>(v);
  transpose_blocks<2>(v);
  if constexpr (kWidth > 4) transpose_blocks<4>(v);
  if constexpr (kWidth > 8) transpose_blocks<8>(v);
}

// ---- 16-bit formats
// ------------------------------------------------------------------------------------------

FASTCNN_INLINE HalfVec narrow(UintVec a) { return __builtin_convertvector(a, HalfVec); }

FASTCNN_INLINE Vec widen(HalfVec a, BFloat16) { return (Vec)(__builtin_convertvector(a, UintVec) << 16); }

FASTCNN_INLINE HalfVec shorten(Vec a, BFloat16) {
#if defined(__AVX512BF16__)
  return (HalfVec)_mm512_cvtneps_pbh((__m512)a);
#else
  const UintVec bits = (UintVec)a;
  const UintVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  return narrow((UintVec)(is_nan(a) ? (IntVec)((bits >> 16) | 0x40) : (IntVec)rounded));
#endif
}

#if defined(__AVX512BF16__)
// c plus the products of two BFloat16 each: lane i of a and b holds elements 2i and 2i + 1 of a dot product.
// Sums are fp32; denormal numbers count as 0.
FASTCNN_INLINE Vec dot_pairs(IntVec a, IntVec b, Vec c) {
  return (Vec)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}
#endif

FASTCNN_INLINE Vec widen(HalfVec a, Float16) {
#if FASTCNN_SIMD_BYTES == 64
  return (Vec)_mm512_cvtph_ps((__m256i)a);
#elif FASTCNN_SIMD_BYTES == 32
  return (Vec)_mm256_cvtph_ps((__m128i)a);
#else
  // Exponent and fraction moved into place, then multiplied by 2^112 to correct the bias: exact, denormals
  // too.
  const UintVec bits = __builtin_convertvector(a, UintVec);
  const Vec magnitude = (Vec)((bits & 0x7fff) << 13) * 0x1p112f;
  const IntVec special = (IntVec)(bits & 0x7c00) == 0x7c00;  // infinity and NaN
  const UintVec exponent = (UintVec)special & 0x7f800000;
  return (Vec)((UintVec)magnitude | exponent | ((bits & 0x8000) << 16));
#endif
}

FASTCNN_INLINE HalfVec shorten(Vec a, Float16) {
#if FASTCNN_SIMD_BYTES == 64
  return (HalfVec)_mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT);
#elif FASTCNN_SIMD_BYTES == 32
  return (HalfVec)_mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT);
#else
  const UintVec sign = ((UintVec)a >> 16) & 0x8000;
  const Vec magnitude = abs(a);
  const UintVec bits = (UintVec)magnitude;
  const UintVec normal = (bits - (112u << 23) + 0xfff + ((bits >> 13) & 1)) >> 13;
  // Below 2^-14 the last place is 2^-24: adding .5 leaves it at the end of the fraction, rounded to even.
  const UintVec denormal = (UintVec)(magnitude + 0.5f) - 0x3f000000;
  UintVec half = (UintVec)(magnitude < 0x1p-14f ? (IntVec)denormal : (IntVec)normal);
  half = (UintVec)(magnitude >= 65520.0f ? (IntVec)(UintVec{} + 0x7c00) : (IntVec)half);
  half = (UintVec)(is_nan(a) ? (IntVec)(((bits >> 13) & 0x3ff) | 0x7e00) : (IntVec)half);
  return narrow(half | sign);
#endif
}

// ---- Memory
// --------------------------------------------------------------------------------------------------

typedef Vec UnalignedVec __attribute__((aligned(1), may_alias));
typedef HalfVec UnalignedHalfVec __attribute__((aligned(1), may_alias));

FASTCNN_INLINE Vec load(const float* p) { return *(const UnalignedVec*)p; }
FASTCNN_INLINE void store(float* p, Vec a) { *(UnalignedVec*)p = a; }

template <class T>  // Float16 or BFloat16
FASTCNN_INLINE Vec load(const T* p) {
  return widen(*(const UnalignedHalfVec*)p, T{});
}
template <class T>
FASTCNN_INLINE void store(T* p, Vec a) {
  *(UnalignedHalfVec*)p = shorten(a, T{});
}

// The first `count` lanes, 0 < count <= kWidth; no other memory is touched, other lanes read as 0.
FASTCNN_INLINE Vec load_partial(const float* p, int count) {
#if FASTCNN_SIMD_BYTES == 64
  return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
#elif FASTCNN_SIMD_BYTES == 32
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return (Vec)_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane));
#else
  Vec a = zero();
  __builtin_memcpy(&a, p, sizeof(float) * count);
  return a;
#endif
}
FASTCNN_INLINE void store_partial(float* p, Vec a, int count) {
#if FASTCNN_SIMD_BYTES == 64
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)a);
#elif FASTCNN_SIMD_BYTES == 32
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane), (__m256)a);
#else
  __builtin_memcpy(p, &a, sizeof(float) * count);
#endif
}

template <class T>
FASTCNN_INLINE Vec load_partial(const T* p, int count) {
  HalfVec a = {};
  __builtin_memcpy(&a, p, sizeof(T) * count);
  return widen(a, T{});
}
template <class T>
FASTCNN_INLINE void store_partial(T* p, Vec a, int count) {
  const HalfVec half = shorten(a, T{});
  __builtin_memcpy(p, &half, sizeof(T) * count);
}

// As store(), for p aligned to the vector, past the caches: for an output that no cache can hold, it saves
// reading the lines first, a third of the traffic of a copy. Call stream_end() before others may read.
FASTCNN_INLINE void stream(float* p, Vec a) {
#if FASTCNN_SIMD_BYTES == 64
  _mm512_stream_ps(p, (__m512)a);
#elif FASTCNN_SIMD_BYTES == 32
  _mm256_stream_ps(p, (__m256)a);
#elif defined(__SSE2__)
  _mm_stream_ps(p, (__m128)a);
#else
  store(p, a);
#endif
}
template <class T>  // Float16 or BFloat16
FASTCNN_INLINE void stream(T* p, Vec a) {
  const HalfVec half = shorten(a, T{});
#if FASTCNN_SIMD_BYTES == 64
  _mm256_stream_si256((__m256i*)p, (__m256i)half);
#elif FASTCNN_SIMD_BYTES == 32
  _mm_stream_si128((__m128i*)p, (__m128i)half);
#elif defined(__x86_64__)
  _mm_stream_si64((long long*)p, (long long)half);
#else
  *(UnalignedHalfVec*)p = half;
#endif
}
FASTCNN_INLINE void stream_end() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

FASTCNN_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

// Calls f(T{}) with the C++ type of a problem's dtype.
template <class F>
FASTCNN_INLINE void with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32:
      return f(float{});
    case DType::float16:
      return f(Float16{});
    case DType::bfloat16:
      return f(BFloat16{});
  }
}

}  // namespace fastcnn::FASTCNN_ISA
