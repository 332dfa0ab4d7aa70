// The gradient of a convolution with respect to its weight, on the CPU.
//
//   dw[k, r, s, c] = sum_{n, p, q} dy[n, p, q, k] * x[n, h, w, c]
//     with h = p * stride_h - pad_h + r * dilation_h, w likewise; x is 0 outside the image
#pragma once

#include <cstdint>

#include "base/problem.h"
#include "cpu/isa.h"

// problem: the convolution's; y_stride is that of dy, x and dy are in its dtype. dw: [K][R][S][C / groups] in
// fp32, or with `contiguous` [K][C / groups][R][S]. Sums are fp32, in an order that the problem fixes: the
// result has the same bits on any number of threads. Needs dilation_w = 1.
FASTCNN_FOR_EACH_ISA(void conv2d_weight_gradient(const Conv2dProblem& problem, const void* x, const void* dy,
                                                 float* dw, bool contiguous, int threads))

// The same by Winograd, F(4x4, 3x3) or F(4x4, 5x5): a 3x3 or 5x5 kernel of stride 1 and dilation 1. Its
// relative error (L2) is at most 1e-5.
FASTCNN_FOR_EACH_ISA(void winograd_weight_gradient(const Conv2dProblem& problem, const void* x,
                                                   const void* dy, float* dw, bool contiguous, int threads))
