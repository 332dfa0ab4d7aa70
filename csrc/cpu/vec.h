// Vec, FASTCNN_SIMD_BYTES of floats, and what C++ itself can do with it. Kernels include cpu/simd.h.
#pragma once

#include <cstdint>

#ifndef FASTCNN_ISA
#error "vec.h belongs in FASTCNN_ISA_SOURCES (cpu.cmake)"
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

FASTCNN_INLINE Vec zero() { return Vec{}; }
FASTCNN_INLINE Vec broadcast(float a) { return a - Vec{}; }
FASTCNN_INLINE Vec select(IntVec mask, Vec a, Vec b) { return mask ? a : b; }
FASTCNN_INLINE Vec as_float(IntVec a) { return (Vec)a; }
FASTCNN_INLINE IntVec as_int(Vec a) { return (IntVec)a; }
FASTCNN_INLINE Vec abs(Vec a) { return as_float(as_int(a) & 0x7fffffff); }
FASTCNN_INLINE IntVec is_nan(Vec a) { return a != a; }

// The numbers 0 to kWidth - 1 as template arguments.
template <int... i>
struct Lanes {
  template <int... more>
  static Lanes<i..., (int(sizeof...(i)) + more)...> then(Lanes<more...>);
};
template <int n>
struct FirstLanes {
  using Half = typename FirstLanes<n / 2>::Type;
  using Type = decltype(Half::then(Half{}));
};
template <>
struct FirstLanes<1> {
  using Type = Lanes<0>;
};

template <class F, int... i>
FASTCNN_INLINE Vec shuffle(Vec a, Vec b, F lane, Lanes<i...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, lane(i)...);
#else
  return __builtin_shuffle(a, b, IntVec{lane(i)...});
#endif
}
// Lane i of the result is lane `lane(i)` of a and b end to end; lane is a lambda without captures.
template <class F>
FASTCNN_INLINE Vec shuffle(Vec a, Vec b, F lane) {
  return shuffle(a, b, lane, typename FirstLanes<kWidth>::Type{});
}

FASTCNN_INLINE HalfVec narrow(UintVec a) { return __builtin_convertvector(a, HalfVec); }

// To nearest, ties to even; NaN stays NaN.
FASTCNN_INLINE HalfVec round_to_bfloat16(Vec a) {
  const UintVec bits = (UintVec)a;
  const UintVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return narrow((UintVec)(is_nan(a) ? (IntVec)((bits >> 16) | 0x40) : (IntVec)rounded));
}

typedef Vec UnalignedVec __attribute__((aligned(1), may_alias));
typedef HalfVec UnalignedHalfVec __attribute__((aligned(1), may_alias));

FASTCNN_INLINE Vec load(const float* p) { return *(const UnalignedVec*)p; }
FASTCNN_INLINE void store(float* p, Vec a) { *(UnalignedVec*)p = a; }

}  // namespace fastcnn::FASTCNN_ISA
