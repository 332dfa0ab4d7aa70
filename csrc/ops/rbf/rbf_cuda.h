// LeNet-5's output layer, squared distances to class centres, on CUDA.
#pragma once

#include "base/problem.h"
#include "base/status.h"

namespace fastcnn::cuda {

// centers: M x D, contiguous, of the problem's dtype.
Status rbf(const RbfProblem& problem, const void* x, const void* centers, void* y, void* stream);

}  // namespace fastcnn::cuda
