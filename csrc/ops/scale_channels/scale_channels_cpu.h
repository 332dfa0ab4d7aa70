#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

namespace fastcnn {

// y[n, pixel, c] = act(x[n, pixel, c] * scale[n, c] + residual[n, pixel, c])
struct ScaleChannelsProblem {
  DType dtype;
  Activation activation;
  bool has_residual;
  int64_t N, pixels, C;  // pixels of one image
  int64_t x_stride, residual_stride, y_stride;
};

}  // namespace fastcnn

FASTCNN_FOR_EACH_ISA(void scale_channels(const ScaleChannelsProblem& problem, const void* x,
                                         const void* scale, const void* residual, void* y, int threads))
