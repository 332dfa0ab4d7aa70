#pragma once

#include "base/problem.h"

namespace fastcnn {

// x is contiguous NCHW, y channels_last. What a network does to its input.
void to_channels_last(const LayoutProblem& problem, const void* x, void* y, int threads);

// x is channels_last, y contiguous NCHW: the order in which PyTorch flattens before a Linear.
void to_channels_first(const LayoutProblem& problem, const void* x, void* y, int threads);

}  // namespace fastcnn
