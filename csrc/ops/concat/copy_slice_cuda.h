// One input of a concatenation, copied into its channel slice, on CUDA.
#pragma once

#include "base/problem.h"
#include "base/status.h"

namespace fastcnn::cuda {

Status copy_slice(const CopySliceProblem& problem, const void* x, void* y, void* stream);

}  // namespace fastcnn::cuda
