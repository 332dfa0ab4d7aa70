// Element-by-element kernels on (pixels, C) tensors with pixel strides.
#pragma once

#include "cpu/caches.h"
#include "cpu/scratch.h"
#include "cpu/simd.h"
#include "cpu/thread_pool.h"

namespace fastcnn::FASTCNN_ISA {

// Prepares a kernel that writes `bytes` bytes at y, and says whether to write them past the caches. The
// threshold is where streaming won when measured; below it the next layer finds its input in the cache.
FASTCNN_INLINE bool prepare_output(void* y, int64_t bytes) {
  if (bytes < int64_t{4} << 20) return false;
  advise_huge_pages(y, bytes);
  return bytes >= 2 * caches().l3;
}

// Calls f(pixel, channel, length) for contiguous runs that cover all pixels and channels: element i of a run
// is at data[pixel * stride + channel + i]. If all strides are C (`dense`), runs ignore pixel boundaries.
// Streaming stores are made visible once a task: a fence a pixel cost a factor of three.
template <class F>
FASTCNN_INLINE void for_each_run(int threads, int64_t pixels, int64_t C, bool dense, F&& f) {
  constexpr int64_t kElements = 16 << 10;  // a task's work: microseconds, against .1 us to draw its number
  if (dense) {
    const int64_t total = pixels * C;
    parallel_for(threads, (total + kElements - 1) / kElements, [&](int64_t task, int) {
      f(int64_t{0}, task * kElements, min_of(kElements, total - task * kElements));
      stream_end();
    });
  } else {
    const int64_t per_task = max_of<int64_t>(1, kElements / max_of<int64_t>(C, 1));
    parallel_for(threads, (pixels + per_task - 1) / per_task, [&](int64_t task, int) {
      const int64_t end = min_of(pixels, (task + 1) * per_task);
      for (int64_t pixel = task * per_task; pixel < end; ++pixel) f(pixel, int64_t{0}, C);
      stream_end();
    });
  }
}

// y[i] = f(i, count) for a run of `length` elements, where f(i, count)
// computes lanes i .. i + count; count is kWidth but for the last. With
// `streaming`, whole vectors go past the caches from the first aligned one on.
template <class T, class F>
FASTCNN_INLINE void write_run(T* y, int64_t length, bool streaming, F&& f) {
  int64_t i = 0;
  if (streaming && (uintptr_t)y % sizeof(T) == 0) {
    constexpr int64_t kBytes = kWidth * sizeof(T);
    const int64_t head =
        min_of<int64_t>(length, (int64_t)((kBytes - (uintptr_t)y % kBytes) % kBytes / sizeof(T)));
    if (head > 0) store_partial(y, f(i, (int)head), (int)head);
    for (i = head; i + kWidth <= length; i += kWidth) stream(y + i, f(i, kWidth));
  }
  for (; i + kWidth <= length; i += kWidth) store(y + i, f(i, kWidth));
  if (i < length) store_partial(y + i, f(i, (int)(length - i)), (int)(length - i));
}

template <class T>
FASTCNN_INLINE Vec load_lanes(const T* p, int count) {
  return count == kWidth ? load(p) : load_partial(p, count);
}

}  // namespace fastcnn::FASTCNN_ISA
