// Element types, 16-byte vectors of them and the activations. All arithmetic is in float.
#pragma once

#include "base/problem.h"
#include "cuda/port.h"

namespace fastcnn::cuda {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == 4)
    return x;
  else if constexpr (__is_same(T, __half))
    return __float2half_rn(x);
  else
    return __float2bfloat16_rn(x);
}

// kSize neighbouring channels, as floats. kSize is 1 (any alignment) or 16 / sizeof(T) (16-byte aligned).
template <class T, int kSize>
struct Vector {
  static_assert(kSize == 1 || kSize * sizeof(T) == 16);
  float value[kSize];

  __device__ __forceinline__ static Vector load(const T* p) {
    Vector v;
    if constexpr (kSize == 1) {
      v.value[0] = to_float(*p);
    } else {
      const uint4 raw = load_16(p);
      const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
      for (int i = 0; i < kSize; i++) {
        if constexpr (sizeof(T) == 4) {
          v.value[i] = __uint_as_float(words[i]);
        } else {
          const uint16_t bits = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
          v.value[i] = to_float(reinterpret_cast<const T&>(bits));
        }
      }
    }
    return v;
  }

  __device__ __forceinline__ void store(T* p) const {
    if constexpr (kSize == 1) {
      *p = from_float<T>(value[0]);
    } else {
      uint32_t words[4] = {};
#pragma unroll
      for (int i = 0; i < kSize; i++) {
        if constexpr (sizeof(T) == 4) {
          words[i] = __float_as_uint(value[i]);
        } else {
          const T element = from_float<T>(value[i]);
          words[i / 2] |= static_cast<uint32_t>(reinterpret_cast<const uint16_t&>(element)) << (i % 2 * 16);
        }
      }
      store_16(p, uint4{words[0], words[1], words[2], words[3]});
    }
  }
};

template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

// As in PyTorch, NaN wins.
__device__ __forceinline__ float max_with_nan(float a, float b) { return a > b || a != a ? a : b; }
__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }

__device__ __forceinline__ float relu6(float x) { return x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x; }
// tanh(ln(1 + e)) = ((1 + e)^2 - 1) / ((1 + e)^2 + 1), for e up to 2^63.
__device__ __forceinline__ float tanh_log1p(float e) { return e * (e + 2.0f) / (e * (e + 2.0f) + 2.0f); }

__device__ __forceinline__ float activate(float x, Activation activation) {
  switch (activation) {
#define FASTCNN_ROW(name, number, increasing, cpu, gpu) \
  case Activation::name:                                \
    return gpu;
    FASTCNN_ACTIVATIONS(FASTCNN_ROW)
#undef FASTCNN_ROW
  }
  return x;
}

// Replaces `index` by index / divisor and returns the remainder; 32-bit division, several times faster, where
// it fits.
__device__ __forceinline__ int64_t divide(int64_t& index, int64_t divisor) {
  if (((index | divisor) >> 32) == 0) {
    const uint32_t quotient = static_cast<uint32_t>(index) / static_cast<uint32_t>(divisor);
    const uint32_t remainder = static_cast<uint32_t>(index) - quotient * static_cast<uint32_t>(divisor);
    index = quotient;
    return remainder;
  }
  const int64_t remainder = index % divisor;
  index /= divisor;
  return remainder;
}

}  // namespace fastcnn::cuda
