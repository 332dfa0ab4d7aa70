#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

// y may be a or b.
FASTCNN_FOR_EACH_ISA(void add_relu(const AddReluProblem& problem, const void* a, const void* b, void* y,
                                   int threads))
