// Sums over pixels, one a channel, in an order that the shape alone fixes: the same bits on any number of
// threads.
#pragma once

#include "cpu/scratch.h"
#include "cpu/simd.h"
#include "cpu/thread_pool.h"

namespace fastcnn::FASTCNN_ISA {

// Pixels of a chunk. Sums within one are of fp32; longer ones would err more, shorter ones cost more to join.
FASTCNN_INLINE int64_t chunk_pixels(int64_t C) {
  const int64_t fitting = (int64_t{64} << 10) / (C * (int64_t)sizeof(float));  // a chunk stays in L2
  return max_of<int64_t>(32, min_of<int64_t>(512, fitting));
}

// Pixels after which a running sum is set aside, as the products of a convolution are (cpu/gemm.h).
constexpr int64_t kPixelRun = 32;

// The sums of U vectors of channels from c on over the pixels [begin, end).
template <int U, int kSums, class Add>
FASTCNN_INLINE void sum_pixels(int64_t begin, int64_t end, int64_t c, int count, Add&& add,
                               Vec (&total)[U][kSums]) {
  for (int u = 0; u < U; ++u)
    for (int s = 0; s < kSums; ++s) total[u][s] = zero();
  for (int64_t pixel = begin; pixel < end;) {
    Vec sums[U][kSums];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u)
#pragma GCC unroll 2
      for (int s = 0; s < kSums; ++s) sums[u][s] = zero();
    for (const int64_t stop = min_of(end, pixel + kPixelRun); pixel < stop; ++pixel)
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) add(pixel, c + u * kWidth, count, sums[u]);
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u)
#pragma GCC unroll 2
      for (int s = 0; s < kSums; ++s) total[u][s] += sums[u][s];
  }
}

// For each chunk of pixels and each channel, kSums sums: add(pixel, c, count, sums) adds those of `count`
// lanes of a pixel; it is called once for every pixel and vector. partial: [chunk][kSums][C].
template <int kSums, class Add>
FASTCNN_INLINE void chunk_sums(int threads, int64_t pixels, int64_t C, float* partial, Add&& add) {
  const int64_t size = chunk_pixels(C), chunks = (pixels + size - 1) / size;
  parallel_for(threads, chunks, [&](int64_t chunk, int) {
    const int64_t begin = chunk * size, end = min_of(pixels, begin + size);
    float* const out = partial + chunk * kSums * C;
    constexpr int kGroup = kSums == 1 ? 4 : 2;  // vectors at a time: longer runs of memory
    int64_t c = 0;
    for (; c + kGroup * kWidth <= C; c += kGroup * kWidth) {
      Vec total[kGroup][kSums];
      sum_pixels(begin, end, c, kWidth, add, total);
      for (int u = 0; u < kGroup; ++u)
        for (int s = 0; s < kSums; ++s) store(out + s * C + c + u * kWidth, total[u][s]);
    }
    for (; c < C; c += kWidth) {
      const int count = (int)min_of<int64_t>(kWidth, C - c);
      Vec total[1][kSums];
      sum_pixels(begin, end, c, count, add, total);
      for (int s = 0; s < kSums; ++s) store_partial(out + s * C + c, total[0][s], count);
    }
  });
}

// The chunks' sums joined in double precision: total(sum, c).
template <int kSums, class Total>
FASTCNN_INLINE void join_sums(int64_t pixels, int64_t C, const float* partial, Total&& total) {
  const int64_t size = chunk_pixels(C), chunks = (pixels + size - 1) / size;
  for (int64_t c = 0; c < C; ++c) {
    double sums[kSums] = {};
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      for (int s = 0; s < kSums; ++s) sums[s] += partial[(chunk * kSums + s) * C + c];
    total(c, sums);
  }
}

template <int kSums>
FASTCNN_INLINE float* sums_memory(int64_t pixels, int64_t C) {
  const int64_t size = chunk_pixels(C), chunks = (pixels + size - 1) / size;
  return (float*)scratch(Scratch::call, (chunks * kSums * C + 1) * sizeof(float));
}

// result: [kSums][C].
template <int kSums, class Add>
FASTCNN_INLINE void channel_sums(int threads, int64_t pixels, int64_t C, float* result, Add&& add) {
  float* const partial = sums_memory<kSums>(pixels, C);
  chunk_sums<kSums>(threads, pixels, C, partial, add);
  join_sums<kSums>(pixels, C, partial, [&](int64_t c, const double* sums) {
    for (int s = 0; s < kSums; ++s) result[s * C + c] = (float)sums[s];
  });
}

}  // namespace fastcnn::FASTCNN_ISA
