// Vec: FASTCNN_SIMD_BYTES of floats, for the instruction set this file is being compiled for.
//
// A GCC vector type, so + - * / and comparisons work as written, `mask ? a : b` selects lane by lane. Memory
// may hold float, Float16 or BFloat16; registers always hold float. Include it only in FASTCNN_ISA_SOURCES
// (cpu/isa.h says why everything here is inside the namespace FASTCNN_ISA).
//
// Every instruction set has a header, simd_<name>.h, with these:
//
//   fma(a, b, c)                 a * b + c, rounded once where there is such an instruction
//   max(a, b), min(a, b)         b if either is NaN: so max(x, acc) skips NaN in x, and max(zero(), x) is a
//                                ReLU that keeps NaN
//   sqrt(a)
//   permute(a, from)             lane i is lane from[i] of a, 0 <= from[i] < kWidth
//   widen, shorten               from and to Float16 (and to BFloat16), rounding to nearest even
//   load_partial(p, count)       the first `count` lanes, 0 < count <= kWidth, of floats; no other memory is
//   store_partial(p, a, count)   touched, other lanes read as 0
//   stream(p, a)                 as store(), for p aligned to the vector, past the caches: for an output that
//   stream_half(p, half)         no cache can hold, it saves reading the lines first, a third of the traffic
//   stream_end()                 of a copy. Before others may read, stream_end().
#pragma once

#include "base/problem.h"
#include "cpu/vec.h"
#if FASTCNN_SIMD_BYTES == 64
#include "cpu/simd_avx512.h"
#elif FASTCNN_SIMD_BYTES == 32
#include "cpu/simd_avx2.h"
#elif defined(__SSE2__)
#include "cpu/simd_sse2.h"
#elif defined(__aarch64__)
#include "cpu/simd_neon.h"
#else
#include "cpu/simd_plain.h"
#endif

namespace fastcnn::FASTCNN_ISA {

template <class T>
FASTCNN_INLINE T min_of(T a, T b) {
  return a < b ? a : b;
}
template <class T>
FASTCNN_INLINE T max_of(T a, T b) {
  return a > b ? a : b;
}

// The sums of the lanes of a, b, c and d in lanes 0 to 3 (and again in every further group of four).
FASTCNN_INLINE Vec sum4(Vec a, Vec b, Vec c, Vec d) {
  // Within each group of four lanes: interleave, add, interleave, add; then add the groups.
  auto low = [](int i) { return i / 4 * 4 + i % 4 / 2 + i % 2 * kWidth; };
  auto high = [](int i) { return i / 4 * 4 + i % 4 / 2 + i % 2 * kWidth + 2; };
  auto first = [](int i) { return i / 4 * 4 + i % 2 + i % 4 / 2 * kWidth; };
  auto second = [](int i) { return i / 4 * 4 + i % 2 + i % 4 / 2 * kWidth + 2; };
  const Vec ab = shuffle(a, b, low) + shuffle(a, b, high);
  const Vec cd = shuffle(c, d, low) + shuffle(c, d, high);
  Vec sums = shuffle(ab, cd, first) + shuffle(ab, cd, second);
  if constexpr (kWidth > 8) sums += shuffle(sums, sums, [](int i) { return i ^ 8; });
  if constexpr (kWidth > 4) sums += shuffle(sums, sums, [](int i) { return i ^ 4; });
  return sums;
}

// Blocks of kStep lanes change places across the diagonal of squares of twice the size.
template <int kStep>
FASTCNN_INLINE void transpose_blocks(Vec (&v)[kWidth]) {
  auto low = [](int lane) { return lane & kStep ? kWidth + lane - kStep : lane; };
  auto high = [](int lane) { return lane & kStep ? kWidth + lane : lane + kStep; };
  _Pragma("GCC unroll 16") for (int i = 0; i < kWidth; ++i) {
    if (i & kStep) continue;
    const Vec a = v[i], b = v[i + kStep];
    v[i] = shuffle(a, b, low);
    v[i + kStep] = shuffle(a, b, high);
  }
}

// Lane i of v[j] becomes lane j of v[i].
FASTCNN_INLINE void transpose(Vec (&v)[kWidth]) {
  transpose_blocks<1>(v);
  transpose_blocks<2>(v);
  if constexpr (kWidth > 4) transpose_blocks<4>(v);
  if constexpr (kWidth > 8) transpose_blocks<8>(v);
}

FASTCNN_INLINE Vec widen(HalfVec a, BFloat16) { return (Vec)(__builtin_convertvector(a, UintVec) << 16); }

// ---- Memory of Float16 or BFloat16

template <class T>
FASTCNN_INLINE Vec load(const T* p) {
  return widen(*(const UnalignedHalfVec*)p, T{});
}
template <class T>
FASTCNN_INLINE void store(T* p, Vec a) {
  *(UnalignedHalfVec*)p = shorten(a, T{});
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
template <class T>
FASTCNN_INLINE void stream(T* p, Vec a) {
  stream_half(p, shorten(a, T{}));
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
