// Every activation as one row: name, number, whether it keeps order (then a maximum may be taken before it as
// well as after it), and what it makes of x on the CPU, where x is a Vec (cpu/activation.h), and on the GPU,
// where it is a float (cuda/numeric.h). NaN stays NaN. fastcnn/core/activations.py has the same names;
// tests/test_activations.py holds the two together.
#pragma once

#define FASTCNN_ACTIVATIONS(ROW)                                                                   \
  ROW(none, 0, true, x, x)                                                                         \
  ROW(relu, 1, true, max(zero(), x), relu(x))                                                      \
  ROW(sigmoid, 2, true, sigmoid(x), 1.0f / (1.0f + expf(-x)))                                      \
  ROW(tanh, 3, true, tanh(x), tanhf(x))                                                            \
  /* LeNet-5's squashing function. */                                                              \
  ROW(scaled_tanh, 4, true, 1.7159f * tanh(x * (2.0f / 3.0f)), 1.7159f * tanhf(x * (2.0f / 3.0f))) \
  ROW(relu6, 5, true, relu6(x), relu6(x))                                                          \
  ROW(leaky_relu, 6, true, max(0.01f * x, x), x < 0.0f ? 0.01f * x : x)                            \
  ROW(elu, 7, true, select(x > 0.0f, x, expm1(min(broadcast(1.0f), x))), x > 0.0f ? x : expm1f(x)) \
  ROW(hardsigmoid, 8, true, relu6(x + 3.0f) / 6.0f, relu6(x + 3.0f) / 6.0f)                        \
  ROW(hardswish, 9, false, relu6(x + 3.0f) / 6.0f * x, relu6(x + 3.0f) / 6.0f * x)                 \
  ROW(silu, 10, false, x / (1.0f + exp(-x)), x / (1.0f + expf(-x)))                                \
  /* x / 2 (1 + erf(x / sqrt(2))), without the difference that cancels where x is negative. */     \
  ROW(gelu, 11, false, normal_below(x) * x, 0.5f * x * erfcf(-0.70710678f * x))                    \
  /* x / 2 (1 + tanh(u)) = x / (1 + e^-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3). */            \
  ROW(gelu_tanh, 12, false, x / (1.0f + exp(x * (-1.5957691f - 0.071354816f * x * x))),            \
      x / (1.0f + expf(x * (-1.5957691f - 0.071354816f * x * x))))                                 \
  /* Of e^x beyond 20 the hyperbolic tangent is 1. */                                              \
  ROW(mish, 13, false, tanh_log1p(exp(min(broadcast(20.0f), x))) * x, tanh_log1p(expf(fminf(x, 20.0f))) * x)
