// What follows the sum: bias, residual, activation, rounding, the store into a channel slice.
#pragma once

#include "cuda/numeric.h"

namespace fastcnn::cuda {

struct Epilogue {
  const void *bias, *residual;  // null: none
  void* y;
  int64_t y_stride, residual_stride;
  Activation activation;
  int32_t vectorised;  // 16-byte accesses fit bias, residual, y and their strides

  // Stores channels [k, k + kSize) of pixel m, as one vector.
  template <class T, int kSize>
  __device__ __forceinline__ void store(Vector<T, kSize> sum, int64_t m, int64_t k) const {
    using V = Vector<T, kSize>;
    if (bias) {
      const V b = V::load(static_cast<const T*>(bias) + k);
#pragma unroll
      for (int i = 0; i < kSize; i++) sum.value[i] += b.value[i];
    }
    if (residual) {
      const V r = V::load(static_cast<const T*>(residual) + m * residual_stride + k);
#pragma unroll
      for (int i = 0; i < kSize; i++) sum.value[i] += r.value[i];
    }
#pragma unroll
    for (int i = 0; i < kSize; i++) sum.value[i] = activate(sum.value[i], activation);
    sum.store(static_cast<T*>(y) + m * y_stride + k);
  }
};

}  // namespace fastcnn::cuda
