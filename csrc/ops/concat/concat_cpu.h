#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

// One input of a concatenation, copied into its channel slice.
FASTCNN_FOR_EACH_ISA(void copy_slice(const CopySliceProblem& problem, const void* x, void* y, int threads))
