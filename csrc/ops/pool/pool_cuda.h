// Max, average and adaptive average pooling on CUDA.
#pragma once

#include "base/problem.h"
#include "base/status.h"

namespace fastcnn::cuda {

Status pool2d(const Pool2dProblem& problem, const void* x, void* y, void* stream);
Status adaptive_avg_pool2d(const AdaptiveAvgPool2dProblem& problem, const void* x, void* y, void* stream);

}  // namespace fastcnn::cuda
