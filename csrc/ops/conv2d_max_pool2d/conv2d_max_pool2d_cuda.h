// A network's stem on CUDA: convolution of up to four channels + bias + activation + max-pool in one kernel.
#pragma once

#include <string>

#include "base/problem.h"
#include "base/status.h"
#include "cuda/device.h"
#include "ops/conv2d/conv2d_cuda.h"

namespace fastcnn::cuda {

// How the pooled pixels are cut: each block computes tile_p x tile_q of them at a time.
struct Conv2dMaxPool2dPlan {
  Float32Mode float32_mode;
  int32_t tile_p, tile_q;
};

// The output channels of a block; the packed weight's K is padded to a multiple of it.
int conv2d_max_pool2d_tile_k(DType dtype);

// Fills the plan of the fewest tiles; returns why the kernel cannot take the problem, in words, or "".
std::string conv2d_max_pool2d_plan(const Conv2dProblem& conv, const Pool2dProblem& pool, const Device& device,
                                   Float32Mode mode, Conv2dMaxPool2dPlan* plan);

// y = max_pool(act(conv(x) + bias)). `pool` is the pool of the convolution's output; of its strides only
// y_stride is read. The weight is packed as [taps / 4][parts][K][4 taps][8 bytes]: the taps (r, s) of the
// filter by fours, parts of 8 bytes that a pixel's channels fill, the output channels; zero where taps,
// channels or K are padded.
Status conv2d_max_pool2d(const Conv2dProblem& conv, const Pool2dProblem& pool,
                         const Conv2dMaxPool2dPlan& plan, const void* x, const void* weight, const void* bias,
                         void* y, void* stream);

}  // namespace fastcnn::cuda
