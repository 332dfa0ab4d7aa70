// max(a + b, 0) on CUDA.
#pragma once

#include "base/problem.h"
#include "base/status.h"

namespace fastcnn::cuda {

Status add_relu(const AddReluProblem& problem, const void* a, const void* b, void* y, void* stream);

}  // namespace fastcnn::cuda
