// exp, sigmoid, tanh and the activations of the operators' epilogues, on Vec. Errors of a few units in the
// last place at most (tests/cpu/test_subsample2d_native.py); NaN stays NaN, infinities give the limits.
#pragma once

#include "cpu/simd.h"

namespace fastcnn::FASTCNN_ISA {

// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2) / 2; the polynomial in r has a relative error of 3e-9.
FASTCNN_INLINE Vec exp(Vec x) {
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
  const Vec p = fma(q * r, r, r) + 1.0f;
  // 2^n in two factors, because 2^128 and 2^-149 are not normal numbers.
  const IntVec exponent = as_int(shifted) - as_int(shift);
  const IntVec half = exponent >> 1;
  return p * as_float((half + 127) << 23) * as_float((exponent - half + 127) << 23);
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

// The switch costs a predicted branch; a kernel that calls this per vector in a hot loop tests for none and
// relu first.
FASTCNN_INLINE Vec activate(Activation activation, Vec x) {
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::relu:
      return max(zero(), x);
    case Activation::sigmoid:
      return sigmoid(x);
    case Activation::tanh:
      return tanh(x);
    case Activation::scaled_tanh:
      return 1.7159f * tanh(x * (2.0f / 3.0f));
  }
  return x;
}

}  // namespace fastcnn::FASTCNN_ISA
