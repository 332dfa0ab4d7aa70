// Local response normalisation on CUDA, alone or followed by a max-pool in the same pass over memory.
#pragma once

#include "base/problem.h"
#include "base/status.h"

namespace fastcnn::cuda {

Status lrn(const LrnProblem& problem, const void* x, void* y, void* stream);

// y = max_pool(lrn(x)). `lrn` gives size, alpha, beta and k; `pool` everything about shapes and strides.
Status lrn_max_pool(const LrnProblem& lrn, const Pool2dProblem& pool, const void* x, void* y, void* stream);

}  // namespace fastcnn::cuda
