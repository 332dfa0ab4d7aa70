#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

// dx[c] = dy[c] s[c]^-beta - 2 alpha beta / size * x[c] * sum over the mirrored window of dy x s^(-beta - 1),
//   s[c] = k + alpha / size * sum over the window of x^2; c' is in the mirrored window of c if c is in that
//   of c'.
// problem: the normalisation's; y_stride is that of dy, dx is dense.
FASTCNN_FOR_EACH_ISA(void lrn_gradient(const LrnProblem& problem, const void* x, const void* dy, void* dx,
                                       int threads))
