// x^y for vectors, to within the last place of float.
#pragma once

#include "cpu/simd.h"

namespace fastcnn::FASTCNN_ISA {

typedef double DoubleVec __attribute__((vector_size(2 * FASTCNN_SIMD_BYTES)));
typedef int64_t LongVec __attribute__((vector_size(2 * FASTCNN_SIMD_BYTES)));

// e^(y ln x) in double precision, because an error in ln x is multiplied by y ln x. Zeros, negative numbers,
// infinities, NaN and denormals take the C library's way.
FASTCNN_INLINE Vec power(Vec x, float y) {
  // x = 2^e m with m in [sqrt(1/2), sqrt(2)); ln m = 2 (s + s^3/3 + s^5/5 + ...), s = (m - 1) / (m + 1).
  const IntVec offset = as_int(x) - 0x3f3504f3;
  const DoubleVec e = __builtin_convertvector(offset >> 23, DoubleVec);
  const DoubleVec m = __builtin_convertvector(as_float((offset & 0x7fffff) + 0x3f3504f3), DoubleVec);
  const DoubleVec s = (m - 1.0) / (m + 1.0), z = s * s;
  DoubleVec series = z * (1.0 / 13) + 1.0 / 11;
  series = series * z + 1.0 / 9;
  series = series * z + 1.0 / 7;
  series = series * z + 1.0 / 5;
  series = series * z + 1.0 / 3;
  const DoubleVec log = e * 0.6931471805599453 + (series * z * s + s) * 2.0;

  DoubleVec t = log * (double)y;
  t = t < 700.0 ? t : DoubleVec{} + 700.0;  // far beyond what a float can hold
  t = t > -700.0 ? t : DoubleVec{} - 700.0;
  const DoubleVec shift = DoubleVec{} + 0x1.8p52;
  const DoubleVec shifted = t * 1.4426950408889634 + shift;
  const DoubleVec r = t - (shifted - shift) * 0.6931471805599453;
  DoubleVec p = r * (1.0 / 362880) + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const LongVec exponent = ((LongVec)shifted - (LongVec)shift + 1023) << 52;
  Vec result = __builtin_convertvector(p * (DoubleVec)exponent, Vec);

  const IntVec ordinary = (x >= 0x1p-126f) & (x <= 0x1.fffffep127f);
  for (int i = 0; i < kWidth; ++i)
    if (__builtin_expect(!ordinary[i], 0)) result[i] = __builtin_powf(x[i], y);
  return result;
}

}  // namespace fastcnn::FASTCNN_ISA
