#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

// Of y[p, q, c] = bias[c] + coefficient[c] * sum over block (p, q) of x, from dy:
//   dx = coefficient[c] * dy of its block (0 where there is none), dcoefficient[c] = sum of x * dy of its
//   block.
// problem: the operator's; y_stride is that of dy, dx is dense. The sum has the same bits on any number of
// threads.
FASTCNN_FOR_EACH_ISA(void subsample2d_gradient(const Subsample2dProblem& problem, const void* x,
                                               const float* coefficient, const void* dy, void* dx,
                                               float* dcoefficient, int threads))
