#include "ops/rbf/rbf_cpu.h"

#include "cpu/rows.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

constexpr int kCenters = 4;  // computed together: x is read once for them, and their sums share the shuffles

// Masked stores of whole vectors, each over the next one's place, halved the speed.
FASTCNN_INLINE void store_up_to_4(float* y, Vec a, int count) {
  if (count == 4)
    __builtin_memcpy(y, &a, 16);
  else
    store_partial(y, a, count);
}
template <class T>
FASTCNN_INLINE void store_up_to_4(T* y, Vec a, int count) {
  store_partial(y, a, count);
}

template <class T>
FASTCNN_INLINE Vec distances(const T* x, const float* const (&center)[kCenters], int64_t D) {
  Vec acc[kCenters] = {zero(), zero(), zero(), zero()};
  auto step = [&](int64_t d, int count) {
    const Vec value = load_lanes(x + d, count);
#pragma GCC unroll 4
    for (int m = 0; m < kCenters; ++m) {
      const Vec difference = value - load_lanes(center[m] + d, count);
      acc[m] = fma(difference, difference, acc[m]);
    }
  };
  int64_t d = 0;
  for (; d + kWidth <= D; d += kWidth) step(d, kWidth);
  if (d < D) step(d, (int)(D - d));
  return sum4(acc[0], acc[1], acc[2], acc[3]);
}

}  // namespace

void rbf(const RbfProblem& problem, const void* x, const float* centers, void* y, int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const RbfProblem p = problem;
    prepare_output(y, p.N * p.y_stride * sizeof(T));
    // Rows a task keeps in the first-level cache while it walks over the centers.
    const int64_t rows = min_of<int64_t>(64, max_of<int64_t>(1, 4096 / max_of<int64_t>(p.D, 1)));
    threads = threads_for_bytes(threads, p.N * (p.D + p.D * p.M / 4) * 4);
    parallel_for(threads, (p.N + rows - 1) / rows, [=](int64_t task, int) {
      const int64_t D = p.D, begin = task * rows, end = min_of(p.N, begin + rows);
      for (int64_t m = 0; m < p.M; m += kCenters) {
        const float* center[kCenters];
        for (int i = 0; i < kCenters; ++i) center[i] = centers + min_of(m + i, p.M - 1) * D;
        const int count = (int)min_of<int64_t>(kCenters, p.M - m);
        const T* from = (const T*)x + begin * p.x_stride;
        T* to = (T*)y + begin * p.y_stride + m;
        for (int64_t n = begin; n < end; ++n, from += p.x_stride, to += p.y_stride)
          store_up_to_4(to, distances(from, center, D), count);
      }
    });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
