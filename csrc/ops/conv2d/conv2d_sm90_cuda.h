// The Hopper convolution as the host sees it: what it takes, and how it is launched.
#pragma once

#include <string>
#include <vector>

#include "ops/conv2d/conv2d_cuda.h"

namespace fastcnn::cuda {

// A width of tile that is compiled for the type, and its stages.
struct Sm90Width {
  int width, stages, shared_bytes;
};
std::vector<Sm90Width> sm90_widths(DType dtype);

// The one tile of the kernel with resident weights.
Sm90Width sm90_resident_width();

// A tile's box of images, rows and columns: the powers of two with the fewest tiles.
struct Sm90Box {
  int log_w, log_h, log_n;
  int64_t tiles;  // that cover N, P and Q
};
Sm90Box sm90_box(const Conv2dProblem& problem);
// With resident weights: within one image, 8 or 16 pixels wide.
Sm90Box sm90_resident_box(const Conv2dProblem& problem);

std::string sm90_reason(const Conv2dProblem& problem, const Conv2dPlan& plan, const Device& device);

Status conv2d_sm90(const Conv2dProblem& problem, const Conv2dPlan& plan, const void* x, const void* weight,
                   const void* bias, const void* residual, void* y, void* stream);

}  // namespace fastcnn::cuda
