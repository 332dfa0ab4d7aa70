// One kernel source, two compilers. nvcc builds it for GPUs; g++ with FASTCNN_EMULATED builds it against
// csrc/emulator, so that tests run the same kernels without a GPU.
//
// Conventions that make this possible:
//   - a kernel takes one plain struct by value and is launched through launch() (launch.h), never with
//   <<<>>>;
//   - shared memory is dynamic: FASTCNN_SHARED(name);
//   - intrinsics and PTX are called by the names below and in ptx.h and ptx_sm90.h, never directly;
//   - collectives are called by all 32 (warp) or 128 (warpgroup) threads, unconditionally;
//   - 16-byte accesses to memory go through load_16 and store_16.
#pragma once

#include <cstdint>

#ifdef FASTCNN_EMULATED

#include <cmath>
#include <cstring>

#include "emulator/emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())
#define FASTCNN_SHARED(name) char* name = emulator::shared_memory()

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
inline float __half2float(__half h) {
  _Float16 value;
  memcpy(&value, &h, 2);
  return value;
}
inline __half __float2half_rn(float f) {
  const _Float16 value = static_cast<_Float16>(f);
  __half h;
  memcpy(&h, &value, 2);
  return h;
}
inline float __bfloat162float(__nv_bfloat16 b) {
  const uint32_t bits = static_cast<uint32_t>(b.bits) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if (f != f) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
inline uint32_t __float_as_uint(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp() { emulator::warp_barrier(); }
inline float __shfl_xor_sync(unsigned, float value, int mask) {
  return __uint_as_float(emulator::shuffle(__float_as_uint(value), (threadIdx.x & 31) ^ mask));
}
inline uint4 load_16(const void* p) {
  uint4 v;
  emulator::load_16_bytes(&v, p);
  return v;
}
inline void store_16(void* p, uint4 v) { emulator::store_16_bytes(p, &v); }

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define FASTCNN_SHARED(name) extern __shared__ __align__(1024) char name[]

__device__ __forceinline__ uint4 load_16(const void* p) { return *static_cast<const uint4*>(p); }
__device__ __forceinline__ void store_16(void* p, uint4 v) { *static_cast<uint4*>(p) = v; }

#endif
