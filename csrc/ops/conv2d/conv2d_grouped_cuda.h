// Convolution of many narrow groups, depthwise among them: memory's work, not the tensor cores'.
#pragma once

#include <string>

#include "ops/conv2d/conv2d_cuda.h"

namespace fastcnn::cuda {

std::string grouped_reason(const Conv2dProblem& problem, const Conv2dPlan& plan, const Device& device);

// Clock cycles that it is expected to take.
double grouped_cycles(const Conv2dProblem& problem, const Device& device);

Status conv2d_grouped(const Conv2dProblem& problem, const void* x, const void* weight, const void* bias,
                      const void* residual, void* y, void* stream);

constexpr int kGroupedPixels = 4;  // neighbours in a row that a thread computes
// Channels of a 16-byte vector: as many a thread computes.
constexpr int grouped_channels(DType dtype) { return dtype == DType::float32 ? 4 : 8; }

}  // namespace fastcnn::cuda
