#include "ops/concat/concat_cpu.h"

#include "cpu/rows.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

constexpr int64_t kBytes = FASTCNN_SIMD_BYTES;

FASTCNN_INLINE void copy(const char* x, char* y, int64_t bytes, bool streaming) {
  if (bytes < kBytes) {
    __builtin_memcpy(y, x, bytes);
    return;
  }
  int64_t i = 0;
  if (streaming) {
    if ((uintptr_t)y % kBytes) store((float*)y, load((const float*)x));
    i = (kBytes - (uintptr_t)y % kBytes) % kBytes;
    for (; i + kBytes <= bytes; i += kBytes) stream((float*)(y + i), load((const float*)(x + i)));
  } else {
    for (; i + 4 * kBytes <= bytes; i += 4 * kBytes) {
      Vec chunk[4];
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) chunk[u] = load((const float*)(x + i + u * kBytes));
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) store((float*)(y + i + u * kBytes), chunk[u]);
    }
    for (; i + kBytes <= bytes; i += kBytes) store((float*)(y + i), load((const float*)(x + i)));
  }
  // The last vector overlaps the one before: cheaper than any way of copying just the rest.
  if (i < bytes) store((float*)(y + bytes - kBytes), load((const float*)(x + bytes - kBytes)));
}

}  // namespace

void copy_slice(const CopySliceProblem& problem, const void* x, void* y, int threads) {
  const int64_t size = problem.element_size;
  const bool dense = problem.x_stride == problem.C && problem.y_stride == problem.C;
  const int64_t bytes = problem.pixels * problem.C * size;
  const bool streaming =
      prepare_output(y, problem.pixels * problem.y_stride * size) && problem.C * size >= 4 * kBytes;
  for_each_run(threads_for_bytes(threads, 2 * bytes), problem.pixels, problem.C, dense,
               [&](int64_t pixel, int64_t channel, int64_t length) {
                 copy((const char*)x + (pixel * problem.x_stride + channel) * size,
                      (char*)y + (pixel * problem.y_stride + channel) * size, length * size, streaming);
               });
}

}  // namespace fastcnn::FASTCNN_ISA
