// exp, tanh and their kin, and the activations of the operators' epilogues (base/activation_list.h), on Vec.
// Errors of a few units in the last place at most (tests/test_activations.py); NaN stays NaN, infinities give
// the limits.
#pragma once

#include "cpu/simd.h"

namespace fastcnn::FASTCNN_ISA {

// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2) / 2.
struct Exponential {
  Vec less_1;     // e^r - 1, by a polynomial with a relative error of 3e-9
  Vec low, high;  // 2^n in two factors, because 2^128 and 2^-149 are not normal numbers
};

FASTCNN_INLINE Exponential exponential(Vec x) {
  x = min(broadcast(89.0f), max(broadcast(-104.0f), x));  // beyond these the result is infinity or 0
  const Vec shift = broadcast(0x1.8p23f);                 // adding it rounds to an integer
  const Vec shifted = fma(x, broadcast(1.442695041f), shift);
  const Vec n = shifted - shift;
  // ln 2 in two parts: n times the first, which has 13 bits, is exact.
  const Vec r = fma(n, broadcast(-3.194618329871446e-5f), fma(n, broadcast(-0.693115234375f), x));
  Vec q = broadcast(0x1.6a242fp-10f);
  q = fma(q, r, broadcast(0x1.1239e3p-7f));
  q = fma(q, r, broadcast(0x1.5558f1p-5f));
  q = fma(q, r, broadcast(0x1.555491p-3f));
  q = fma(q, r, broadcast(0x1.fffffcp-2f));
  const IntVec exponent = as_int(shifted) - as_int(shift);
  const IntVec half = exponent >> 1;
  return {fma(q * r, r, r), as_float((half + 127) << 23), as_float((exponent - half + 127) << 23)};
}

FASTCNN_INLINE Vec exp(Vec x) {
  const Exponential e = exponential(x);
  return (e.less_1 + 1.0f) * e.low * e.high;
}

// e^x - 1, which does not cancel near 0; x up to 88.
FASTCNN_INLINE Vec expm1(Vec x) {
  const Exponential e = exponential(x);
  const Vec scale = e.low * e.high;
  return fma(e.less_1, scale, scale - 1.0f);
}

FASTCNN_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

// tanh(x) = x + x^3 p(x^2) near 0, where the other form cancels; 1 - 2 / (e^2|x| + 1) elsewhere.
FASTCNN_INLINE Vec tanh(Vec x) {
  const Vec magnitude = abs(x);
  const Vec z = x * x;
  Vec p = broadcast(-5.704978480935097e-3f);
  p = fma(p, z, broadcast(2.0639078691601753e-2f));
  p = fma(p, z, broadcast(-5.373971164226532e-2f));
  p = fma(p, z, broadcast(0.13331441581249237f));
  p = fma(p, z, broadcast(-0.3333328068256378f));
  const Vec near = fma(p * z, x, x);
  const Vec far = 1.0f - 2.0f / (exp(2.0f * magnitude) + 1.0f);
  const Vec signed_far = as_float(as_int(far) | (as_int(x) & INT32_MIN));
  return select(magnitude < 0.625f, near, signed_far);
}

// max(0, min(6, x)).
FASTCNN_INLINE Vec relu6(Vec x) { return max(zero(), min(broadcast(6.0f), x)); }

// tanh(ln(1 + e)) = ((1 + e)^2 - 1) / ((1 + e)^2 + 1), for e up to 2^63.
FASTCNN_INLINE Vec tanh_log1p(Vec e) {
  const Vec square = e * (e + 2.0f);
  return square / (square + 2.0f);
}

// The normal distribution's share below x, 1/2 (1 + erf(x / sqrt(2))). Of the share beyond |x| the logarithm
// is a polynomial in |x|, with a relative error of 4e-9 near 0 that grows to 1e-6 at 4; it falls for ever.
FASTCNN_INLINE Vec normal_below(Vec x) {
  const Vec t = abs(x);
  Vec p = broadcast(-0x1.ceb1d6p-26f);
  p = fma(p, t, broadcast(0x1.8d6bf4p-21f));
  p = fma(p, t, broadcast(-0x1.282814p-17f));
  p = fma(p, t, broadcast(0x1.e9a6d8p-15f));
  p = fma(p, t, broadcast(-0x1.b1fd8cp-13f));
  p = fma(p, t, broadcast(0x1.23dd50p-16f));
  p = fma(p, t, broadcast(0x1.3ad582p-8f));
  p = fma(p, t, broadcast(-0x1.29c218p-5f));
  p = fma(p, t, broadcast(-0x1.45f23ep-2f));
  p = fma(p, t, broadcast(-0x1.98845cp-1f));
  const Vec beyond = exp(fma(p, t, broadcast(-0x1.62e430p-1f)));
  return select(x < 0.0f, beyond, 1.0f - beyond);
}

// The switch costs a predicted branch; a kernel that calls this per vector in a hot loop tests for none and
// relu first.
FASTCNN_INLINE Vec activate(Activation activation, Vec x) {
  switch (activation) {
#define FASTCNN_ROW(name, number, increasing, cpu, gpu) \
  case Activation::name:                                \
    return cpu;
    FASTCNN_ACTIVATIONS(FASTCNN_ROW)
#undef FASTCNN_ROW
  }
  return x;
}

}  // namespace fastcnn::FASTCNN_ISA
