// What instruction sets with vectors of 16 bytes share: operations that take none of their instructions.
#pragma once

#include "cpu/vec.h"

namespace fastcnn::FASTCNN_ISA {

FASTCNN_INLINE Vec permute(Vec a, IntVec from) {
#if defined(__clang__)
  Vec result;
  for (int i = 0; i < kWidth; ++i) result[i] = a[from[i]];
  return result;
#else
  return __builtin_shuffle(a, from);
#endif
}

FASTCNN_INLINE Vec widen_float16(HalfVec a) {
  // Exponent and fraction are moved into place, then multiplied by 2^112, which corrects the exponent's bias:
  // exact, for denormal numbers too.
  const UintVec bits = __builtin_convertvector(a, UintVec);
  const Vec magnitude = (Vec)((bits & 0x7fff) << 13) * 0x1p112f;
  const IntVec special = (IntVec)(bits & 0x7c00) == 0x7c00;  // infinity and NaN
  const UintVec exponent = (UintVec)special & 0x7f800000;
  return (Vec)((UintVec)magnitude | exponent | ((bits & 0x8000) << 16));
}

FASTCNN_INLINE HalfVec round_to_float16(Vec a) {
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
}

FASTCNN_INLINE HalfVec shorten(Vec a, BFloat16) { return round_to_bfloat16(a); }

FASTCNN_INLINE Vec load_partial(const float* p, int count) {
  Vec a = zero();
  __builtin_memcpy(&a, p, sizeof(float) * count);
  return a;
}
FASTCNN_INLINE void store_partial(float* p, Vec a, int count) {
  __builtin_memcpy(p, &a, sizeof(float) * count);
}

}  // namespace fastcnn::FASTCNN_ISA
