#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

namespace fastcnn {

// y[pixel, c] = act(z[pixel, c] + bias[c]), of which bias_activation_gradient() has the gradient.
struct BiasActivationProblem {
  DType dtype;
  Activation activation;
  int64_t pixels, C;
  int64_t dy_stride, y_stride;
};

}  // namespace fastcnn

// The gradient of y = act(z + bias[c]), from y: dz = dy act'(z), db[c] = sum of dz over pixels.
// y, dz: dense; null for no activation, where dz is dy itself. db: fp32, or null. The sum has the same bits
// on any number of threads.
FASTCNN_FOR_EACH_ISA(void bias_activation_gradient(const BiasActivationProblem& problem, const void* dy,
                                                   const void* y, void* dz, float* db, int threads))
