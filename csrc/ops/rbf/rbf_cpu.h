#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

FASTCNN_FOR_EACH_ISA(void rbf(const RbfProblem& problem, const void* x, const float* centers, void* y,
                              int threads))
