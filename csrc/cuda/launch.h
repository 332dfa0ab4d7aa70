// From a checked problem to a running kernel: launches, errors as Status, and the choice of element type.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <initializer_list>

#include "base/problem.h"
#include "base/status.h"
#include "cuda/port.h"

#ifndef FASTCNN_EMULATED
#include <cuda_runtime.h>
#endif

namespace fastcnn::cuda {

__attribute__((format(printf, 2, 3))) inline Status make_status(StatusCode code, const char* format, ...) {
  Status status;
  status.code = code;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(status.message, sizeof status.message, format, arguments);
  va_end(arguments);
  return status;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

#ifndef FASTCNN_EMULATED
// What a call of the runtime returned, as a Status. The runtime keeps an error until it is asked for it: left
// there, the next launch, of ours or of PyTorch, would be blamed for it.
inline Status status_of(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return Status();
  cudaGetLastError();
  return make_status(StatusCode::device_error, "%s: %s", what, cudaGetErrorString(error));
}
#endif

// Launches kernel(params) on the stream. The status tells of a launch that failed; what goes wrong while the
// kernel runs surfaces, as always with CUDA, at a later synchronisation.
template <class Params>
Status launch(const char* name, void (*kernel)(Params), dim3 grid, dim3 block, size_t shared_bytes,
              void* stream, const Params& params) {
#ifdef FASTCNN_EMULATED
  (void)stream;
  struct Context {
    void (*kernel)(Params);
    Params params;
  };
  const Context context{kernel, params};
  auto body = [](const void* p) {
    static_cast<const Context*>(p)->kernel(static_cast<const Context*>(p)->params);
  };
  const char* finding = emulator::launch(grid, block, shared_bytes, body, &context, sizeof context);
  if (*finding) return make_status(StatusCode::device_error, "%s: %s", name, finding);
  return Status();
#else
  const void* function = reinterpret_cast<const void*>(kernel);
  cudaError_t error = cudaSuccess;
  if (shared_bytes > 48 * 1024)
    error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  if (error == cudaSuccess) {
    void* arguments[] = {const_cast<Params*>(&params)};
    error =
        cudaLaunchKernel(function, grid, block, arguments, shared_bytes, static_cast<cudaStream_t>(stream));
  }
  return status_of(error, name);
#endif
}

// Calls f with a value of the element type.
template <class F>
Status for_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32:
      return f(float());
    case DType::float16:
      return f(__half());
    case DType::bfloat16:
      return f(__nv_bfloat16());
  }
  return make_status(StatusCode::unsupported, "unknown dtype %d", static_cast<int>(dtype));
}

// True if 16-byte accesses fit: every address and every
// stride and extent (in elements) is a multiple of them.
inline bool vectorises(int64_t element_size, std::initializer_list<const void*> pointers,
                       std::initializer_list<int64_t> extents) {
  for (const void* p : pointers)
    if (reinterpret_cast<uintptr_t>(p) % 16) return false;
  for (int64_t extent : extents)
    if (extent * element_size % 16) return false;
  return true;
}

}  // namespace fastcnn::cuda
