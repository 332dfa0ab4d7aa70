#include "ops/layout/layout.h"

#include <algorithm>
#include <cstdint>

#include "cpu/thread_pool.h"
#include "python/bind.h"

namespace fastcnn {
namespace {

// Moves a block of pixels and channels; the element (pixel, c) is at nchw[c * plane + pixel] and at
// nhwc[pixel * stride + c].
template <bool kToLast, class T>
void move_block(T* nchw, int64_t plane, T* nhwc, int64_t stride, int64_t pixels, int64_t channels) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t c = 0; c < channels; ++c)
      if (kToLast)
        nhwc[pixel * stride + c] = nchw[c * plane + pixel];
      else
        nchw[c * plane + pixel] = nhwc[pixel * stride + c];
}

template <bool kToLast, class T>
void move(const LayoutProblem& problem, T* nchw, T* nhwc, int threads) {
  const int64_t plane = problem.H * problem.W, C = problem.C, stride = problem.pixel_stride;
  constexpr int64_t kPixels = 1024, kBlock = 16;  // a task; a square that stays in the first-level cache
  const int64_t chunks = (plane + kPixels - 1) / kPixels;
  parallel_for(threads_for_bytes(threads, 2 * problem.N * plane * C * sizeof(T)), problem.N * chunks,
               [&](int64_t task, int) {
                 const int64_t n = task / chunks, begin = task % chunks * kPixels;
                 const int64_t end = std::min(plane, begin + kPixels);
                 T* const image = nchw + n * C * plane;
                 T* const pixels = nhwc + n * plane * stride;
                 if (C == 3 && stride == 3)  // an RGB image: constants that the compiler makes shuffles of
                   return move_block<kToLast>(image + begin, plane, pixels + begin * 3, 3, end - begin, 3);
                 for (int64_t pixel = begin; pixel < end; pixel += kBlock)
                   for (int64_t c = 0; c < C; c += kBlock)
                     move_block<kToLast>(image + c * plane + pixel, plane, pixels + pixel * stride + c,
                                         stride, std::min(kBlock, end - pixel), std::min(kBlock, C - c));
               });
}

template <bool kToLast>
void move(const LayoutProblem& problem, void* nchw, void* nhwc, int threads) {
  if (problem.element_size == 2)
    move<kToLast>(problem, static_cast<uint16_t*>(nchw), static_cast<uint16_t*>(nhwc), threads);
  else
    move<kToLast>(problem, static_cast<uint32_t*>(nchw), static_cast<uint32_t*>(nhwc), threads);
}

}  // namespace

void to_channels_last(const LayoutProblem& problem, const void* x, void* y, int threads) {
  move<true>(problem, const_cast<void*>(x), y, threads);
}

void to_channels_first(const LayoutProblem& problem, const void* x, void* y, int threads) {
  move<false>(problem, y, const_cast<void*>(x), threads);
}

Operation to_channels_last_operation(const LayoutProblem& p) {
  const int64_t pixels = p.N * p.H * p.W;
  return {"to_channels_last",
          "layout",
          dims({p.N, p.C, p.H, p.W}),
          0,
          0,
          {tensor("x", pixels, p.C, p.C, p.element_size),
           tensor("y", pixels, p.C, p.pixel_stride, p.element_size)},
          [p](Addresses a, int threads) { to_channels_last(p, a[0], a[1], threads); }};
}

Operation to_channels_first_operation(const LayoutProblem& p) {
  const int64_t pixels = p.N * p.H * p.W;
  return {"to_channels_first",
          "layout",
          dims({p.N, p.H, p.W, p.C}),
          0,
          0,
          {tensor("x", pixels, p.C, p.pixel_stride, p.element_size),
           tensor("y", pixels, p.C, p.C, p.element_size)},
          [p](Addresses a, int threads) { to_channels_first(p, a[0], a[1], threads); }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, LayoutProblem, element_size, N, H, W, C, pixel_stride);
  bind(m, "to_channels_last", to_channels_last_operation);
  bind(m, "to_channels_first", to_channels_first_operation);
}

}  // namespace fastcnn
