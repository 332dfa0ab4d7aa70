#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

// One input of a concatenation, copied into its channel slice.
FASTCNN_FOR_EACH_ISA(void copy_slice(const CopySliceProblem& problem, const void* x, void* y, int threads))

// All inputs of a concatenation, count of them, at least 1: one slice after the other, beginning at y. The
// slices differ in C and x_stride only.
FASTCNN_FOR_EACH_ISA(void concat(const CopySliceProblem* slices, const void* const* x, int64_t count, void* y,
                                 int threads))
