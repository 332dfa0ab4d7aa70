// Tensor maps: how the copy engine (TMA) of Hopper finds a box of a tensor.
#pragma once

#include "base/problem.h"
#include "base/status.h"
#include "cuda/ptx_sm90.h"

namespace fastcnn::cuda {

struct TensorMapRequest {
  DType dtype;
  int rank;
  const void* base;
  uint64_t size[4];          // innermost first
  uint64_t stride_bytes[3];  // of dimensions 1 and up
  uint32_t box[4];           // in elements of the result
  uint32_t step[4];          // every step-th element is taken
  int swizzle_bytes;         // 32, 64 or 128
  bool rounds_to_tf32;       // float32 on its way in: wgmma would cut off what tf32 has no bits for

  bool operator==(const TensorMapRequest& other) const;
};

// Encoded once for a thread's last tensors: a network's calls ask for the same ones again, and the driver takes longer
// for a map than for a launch. What the driver refuses is unsupported, in words.
Status encode_tensor_map(const TensorMapRequest& request, TensorMap* map);

}  // namespace fastcnn::cuda
