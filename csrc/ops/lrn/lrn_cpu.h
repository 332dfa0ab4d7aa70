#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

FASTCNN_FOR_EACH_ISA(void lrn(const LrnProblem& problem, const void* x, void* y, int threads))

// y = max_pool2d(lrn(x)). The LRN's pixels are the pool's input pixels; pool.x_stride is not used, nothing is
// written between the two.
FASTCNN_FOR_EACH_ISA(void lrn_max_pool2d(const LrnProblem& problem, const Pool2dProblem& pool, const void* x,
                                         void* y, int threads))
