#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

FASTCNN_FOR_EACH_ISA(void pool2d(const Pool2dProblem& problem, const void* x, void* y, int threads))
FASTCNN_FOR_EACH_ISA(void adaptive_avg_pool2d(const AdaptiveAvgPool2dProblem& problem, const void* x, void* y,
                                              int threads))
