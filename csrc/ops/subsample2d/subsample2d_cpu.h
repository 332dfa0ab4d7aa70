#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

FASTCNN_FOR_EACH_ISA(void subsample2d(const Subsample2dProblem& problem, const void* x,
                                      const float* coefficient, const float* bias, void* y, int threads))
