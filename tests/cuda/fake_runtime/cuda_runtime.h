// A CUDA runtime whose calls fail on demand, so that the host's half of csrc/cuda can be tested without a
// GPU. As in the real one, an error stays in the runtime until cudaGetLastError asks for it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda.h"

#define __device__
#define __global__
#define __forceinline__ inline
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct uint4 {
  uint32_t x, y, z, w;
};
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorSymbolNotFound = 500 };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
constexpr int cudaEnableDefault = 0;
constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaDevAttrMultiProcessorCount = 16;
using cudaStream_t = void*;
struct cudaDeviceProp {
  int major, minor, multiProcessorCount;
  size_t sharedMemPerBlockOptin;
  char name[256];
};

namespace fake {
inline cudaError_t next = cudaSuccess, kept = cudaSuccess;  // what the next call returns; what stays behind
inline int launches = 0;
inline cudaError_t answer() {
  const cudaError_t error = next;
  next = cudaSuccess;
  if (error != cudaSuccess) kept = error;
  return error;
}
inline int encode(...) { return CUDA_SUCCESS; }
}  // namespace fake

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = fake::kept;
  fake::kept = cudaSuccess;
  return error;
}
inline const char* cudaGetErrorString(cudaError_t) { return "as asked for"; }
inline cudaError_t cudaFuncSetAttribute(const void*, int, int) { return fake::answer(); }
inline cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t) {
  const cudaError_t error = fake::answer();
  if (error == cudaSuccess) fake::launches++;
  return error;
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, fake::answer(); }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, fake::answer(); }
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) { return *value = 132, fake::answer(); }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) { return *p = {}, fake::answer(); }
// Each version of the toolkit has one of the two.
#if CUDART_VERSION >= 12050
inline cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned,
                                                    unsigned long long,
                                                    cudaDriverEntryPointQueryResult* result) {
#else
inline cudaError_t cudaGetDriverEntryPoint(const char*, void** function, unsigned long long,
                                           cudaDriverEntryPointQueryResult* result) {
#endif
  const cudaError_t error = fake::answer();
  *function = error == cudaSuccess ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  *result = error == cudaSuccess ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return error;
}

// Named by kernels' helpers, never run here.
uint32_t __cvta_generic_to_shared(const void*);
int __any_sync(unsigned, bool);
