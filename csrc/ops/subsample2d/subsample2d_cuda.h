// LeNet-5's trainable subsampling on CUDA.
#pragma once

#include "base/problem.h"
#include "base/status.h"

namespace fastcnn::cuda {

// coefficient and bias have C elements of the problem's dtype.
Status subsample2d(const Subsample2dProblem& problem, const void* x, const void* coefficient,
                   const void* bias, void* y, void* stream);

}  // namespace fastcnn::cuda
