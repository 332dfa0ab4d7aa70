#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

// b is not read by functions of one operand. y may be a or b.
FASTCNN_FOR_EACH_ISA(void elementwise(const ElementwiseProblem& problem, const void* a, const void* b,
                                      void* y, int threads))
