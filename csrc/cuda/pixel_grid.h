// How the memory-bound kernels cut (pixels, groups of channels): a block's x
// runs over groups, its y over pixels; the grid's x over groups, its y and z
// together over pixels, so that no dimension meets its limit of 65,535.
#pragma once

#include "cuda/launch.h"

namespace fastcnn::cuda {

struct PixelGrid {
  dim3 grid, block;
};

inline PixelGrid pixel_grid(int64_t pixels, int64_t groups) {
  unsigned x = 1, y = 1;
  while (x < 64 && x < groups) x *= 2;
  while (x * y < 256 && y < pixels) y *= 2;
  while (x * y < 256) x *= 2;
  const int64_t pixel_blocks = ceil_div(pixels, y), rows = pixel_blocks < 65535 ? pixel_blocks : 65535;
  return {dim3(static_cast<unsigned>(ceil_div(groups, x)), static_cast<unsigned>(rows),
               static_cast<unsigned>(ceil_div(pixel_blocks, rows))),
          dim3(x, y)};
}

__device__ __forceinline__ int64_t pixel_index() {
  return (static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y) * blockDim.y + threadIdx.y;
}
__device__ __forceinline__ int64_t group_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

}  // namespace fastcnn::cuda
