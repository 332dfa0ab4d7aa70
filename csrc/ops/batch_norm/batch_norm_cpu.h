// Batch normalisation in training with the addition and the ReLU behind it.
//
//   y = act((x - mean[c]) inv_std[c] weight[c] + bias[c] + residual), act = ReLU or nothing
//   mean, 1 / inv_std^2 - eps: mean and (biased) variance of x over the pixels
//
// Ioffe and Szegedy, Batch Normalization (2015). Sums have the same bits on any number of threads.
#pragma once

#include "base/problem.h"
#include "cpu/isa.h"

namespace fastcnn {

// y = act((x - mean[c]) / sqrt(variance[c] + eps) * weight[c] + bias[c] + residual), act = ReLU or nothing;
// mean and variance are those of x over the pixels. y and dx are dense.
struct BatchNormProblem {
  DType dtype;
  int32_t relu, has_residual;
  int64_t pixels, C;
  float eps, momentum;
  int64_t x_stride, residual_stride, dy_stride;
};

struct BatchNormPointers {
  const void* x;
  const float *weight, *bias;  // null: 1 and 0
  const void* residual;        // null: none
  float *running_mean,
      *running_var;       // null: not kept; else moved towards mean and unbiased variance by `momentum`
  float *mean, *inv_std;  // written forward, read backward
  void* y;                // written forward; read backward if there are a residual and a ReLU
};

struct BatchNormGradients {
  const void* dy;
  void* dx;         // dense
  void* dresidual;  // dense, or null: not wanted, or no ReLU, where it is dy itself
  float *dweight, *dbias;
};

}  // namespace fastcnn

FASTCNN_FOR_EACH_ISA(void batch_norm(const BatchNormProblem& problem, const BatchNormPointers& at,
                                     int threads);
                     void batch_norm_gradient(const BatchNormProblem& problem, const BatchNormPointers& at,
                                              const BatchNormGradients& gradients, int threads))
