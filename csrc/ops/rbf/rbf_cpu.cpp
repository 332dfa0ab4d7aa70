#include "ops/rbf/rbf_cpu.h"

#include "cpu/rows.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

constexpr int kCenters = 4;  // computed together: x is read once for them, and their sums share the shuffles

template <class T>
void store_one(T* y, float value) {
  store_partial(y, broadcast(value), 1);
}

template <class T>
FASTCNN_INLINE void distances(const T* x, const float* const (&center)[kCenters], int64_t D, float (&out)[kCenters]) {
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
  sum4(acc[0], acc[1], acc[2], acc[3], out);
}

}  // namespace

void rbf(const RbfProblem& problem, const void* x, const float* centers, void* y, int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t D = problem.D, M = problem.M;
    prepare_output(y, problem.N * problem.y_stride * sizeof(T));
    // Rows a task keeps in the first-level cache while it walks over the centers.
    const int64_t rows = min_of<int64_t>(64, max_of<int64_t>(1, 4096 / max_of<int64_t>(D, 1)));
    threads = threads_for_bytes(threads, problem.N * (D + D * M / 4) * 4);
    parallel_for(threads, (problem.N + rows - 1) / rows, [&](int64_t task, int) {
      const int64_t end = min_of(problem.N, (task + 1) * rows);
      for (int64_t m0 = 0; m0 < M; m0 += kCenters) {
        const float* center[kCenters];
        for (int m = 0; m < kCenters; ++m) center[m] = centers + min_of(m0 + m, M - 1) * D;
        for (int64_t n = task * rows; n < end; ++n) {
          float out[kCenters];
          distances((const T*)x + n * problem.x_stride, center, D, out);
          for (int64_t m = m0; m < min_of(M, m0 + kCenters); ++m)
            store_one((T*)y + n * problem.y_stride + m, out[m - m0]);
        }
      }
    });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
