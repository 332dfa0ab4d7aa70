// Pooling in training: the maximum that remembers where it was, and the gradients of the pools.
#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

// y as pool2d's maximum; taps[n, p, q, c] = r * kernel_w + s of the tap that won, as PyTorch's indices choose
// it: the first of equal ones, the last NaN. At most 256 taps. taps is dense.
FASTCNN_FOR_EACH_ISA(void max_pool2d_taps(const Pool2dProblem& problem, const void* x, void* y, uint8_t* taps,
                                          int threads))

// problem: the pool's; y_stride is that of dy, dx is dense. For the maximum, taps are those of
// max_pool2d_taps; for the average they are not read.
FASTCNN_FOR_EACH_ISA(void pool2d_gradient(const Pool2dProblem& problem, const uint8_t* taps, const void* dy,
                                          void* dx, int threads))

// dx[n, h, w, c] = sum over the windows that contain (h, w) of dy / their sizes.
FASTCNN_FOR_EACH_ISA(void adaptive_avg_pool2d_gradient(const AdaptiveAvgPool2dProblem& problem,
                                                       const void* dy, void* dx, int threads))
