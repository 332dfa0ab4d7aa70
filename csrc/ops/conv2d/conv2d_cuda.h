// Convolution and linear layers on CUDA: which kernels there are, how one is planned, how it is run.
//
// Tensors are as in base/problem.h; the weight is [K][R][S][C / groups], contiguous (PyTorch's
// channels_last), and weight, bias and residual have the problem's dtype.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/problem.h"
#include "base/status.h"
#include "cuda/device.h"

namespace fastcnn::cuda {

enum class Conv2dKernel : int32_t {
  sm80 = 0,           // implicit GEMM on mma.sync, 16-byte asynchronous copies
  sm80_gather = 1,    // the same, reading x and the weight element by element: any C, any alignment
  sm90 = 2,           // TMA and wgmma, warp-specialised and persistent; Hopper only
  sm90_resident = 3,  // the same for C and K up to 64, the filter resident, x loaded once a filter column
  grouped = 4,        // many narrow groups, depthwise among them: no tensor cores, memory's speed
};

// How float32 is multiplied. Half types ignore it.
enum class Float32Mode : int32_t {
  strict = 0,  // each product as three tf32 products: float32's accuracy
  tf32 = 1,    // inputs rounded to tf32's 10 bits of mantissa
};

// A kernel and its tile. Printable, so that tuning data can name it: "sm80/128x64/stages=4/splits=2/tf32".
struct Conv2dPlan {
  Conv2dKernel kernel;
  Float32Mode float32_mode;
  int32_t tile_m, tile_n;  // output pixels and output channels of a block
  int32_t stages;          // tiles of input and weight in flight
  int32_t splits;          // of the sum over R, S and C, over as many blocks; 1: not split
};

std::string conv2d_plan_name(const Conv2dPlan& plan);
// Reverses conv2d_plan_name. An unknown name is invalid_argument.
Status conv2d_plan_from_name(const std::string& name, Conv2dPlan* plan);

// Why the plan cannot run the problem on the device, in words; "" if it can.
std::string conv2d_plan_reason(const Conv2dProblem& problem, const Conv2dPlan& plan, const Device& device);

// Every plan that can run the problem on the device, the one expected fastest first. Expectations rest on a
// model, see conv2d_cuda.cu, and are overruled by measurements.
std::vector<Conv2dPlan> conv2d_plans(const Conv2dProblem& problem, const Device& device, Float32Mode mode);

// The model's clock cycles for a plan that can run the problem, and the share of multiprocessors that its blocks keep
// busy, over its waves: what a prediction consists of, to be held against a measurement.
double conv2d_plan_cycles(const Conv2dProblem& problem, const Conv2dPlan& plan, const Device& device);
double conv2d_plan_share(const Conv2dProblem& problem, const Conv2dPlan& plan, const Device& device);

// Bytes of device memory that the plan needs beside its tensors, 16-byte aligned.
size_t conv2d_workspace_bytes(const Conv2dProblem& problem, const Conv2dPlan& plan);

// bias and residual are null where the problem has none. A plan that needs 16-byte aligned tensors runs as
// sm80 or sm80_gather where they are not.
Status conv2d(const Conv2dProblem& problem, const Conv2dPlan& plan, const void* x, const void* weight,
              const void* bias, const void* residual, void* y, void* workspace, void* stream);

// A linear layer as the 1x1 convolution of N images of one pixel.
Conv2dProblem conv2d_from_linear(const LinearProblem& problem);

}  // namespace fastcnn::cuda
