#include "ops/lrn/lrn_cpu.h"

#include "cpu/rows.h"
#include "ops/lrn/power.h"
#include "ops/pool/pool_window.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

// The squares of one pixel lie in a padded row, so that every window is `size` plain loads: channel c at
// squares[before + c], zeros around it.
struct Squares {
  float* data;
  int64_t before, stride;
};

Squares padded(const LrnProblem& problem, float* data) {
  return {data, problem.size / 2, problem.C + problem.size - 1 + 2 * kWidth};
}

template <class T>
void fill(const LrnProblem& problem, const Squares& squares, const T* x, int64_t pixels) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel, x += problem.x_stride) {
    float* row = squares.data + pixel * squares.stride;
    for (int64_t i = 0; i < squares.before; ++i) row[i] = 0;
    row += squares.before;
    int64_t c = 0;
    for (; c + kWidth <= problem.C; c += kWidth) {
      const Vec value = load(x + c);
      store(row + c, value * value);
    }
    if (c < problem.C) {
      const Vec value = load_partial(x + c, (int)(problem.C - c));
      store(row + c, value * value);
    }
    for (c = problem.C; c < problem.C + problem.size - 1 - squares.before + kWidth; ++c) row[c] = 0;
  }
}

// kSize is problem.size where it is a constant the compiler can unroll, else 0.
template <int kSize, class T, class U, class Normalize>
FASTCNN_INLINE void normalize_pixels(const LrnProblem& problem, const Squares& squares, const T* x, U* y,
                                     int64_t y_stride, int64_t pixels, bool streaming,
                                     Normalize&& normalize) {
  const int64_t size = kSize ? kSize : problem.size;
  const Vec scale = broadcast(problem.alpha / (float)size), k = broadcast(problem.k);
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const T* from = x + pixel * problem.x_stride;
    const float* window = squares.data + pixel * squares.stride;
    write_run(y + pixel * y_stride, problem.C, streaming, [&](int64_t c, int count) {
      Vec sum = load(window + c);
#pragma GCC unroll 8
      for (int64_t i = 1; i < size; ++i) sum += load(window + c + i);
      return normalize(load_lanes(from + c, count), fma(sum, scale, k));
    });
  }
}

// Normalises `pixels` pixels from x to y; `squares` has room for that many.
template <class T, class U>
void lrn_pixels(const LrnProblem& problem, const Squares& squares, const T* x, U* y, int64_t y_stride,
                int64_t pixels, bool streaming) {
  fill(problem, squares, x, pixels);
  auto for_size = [&](auto&& normalize) {
    if (problem.size == 5)
      normalize_pixels<5>(problem, squares, x, y, y_stride, pixels, streaming, normalize);
    else
      normalize_pixels<0>(problem, squares, x, y, y_stride, pixels, streaming, normalize);
  };
  if (problem.beta == 0.75f)
    for_size([](Vec x, Vec d) {
      const Vec root = sqrt(d);
      return x / (root * sqrt(root));
    });
  else if (problem.beta == 0.5f)
    for_size([](Vec x, Vec d) { return x / sqrt(d); });
  else if (problem.beta == 1.0f)
    for_size([](Vec x, Vec d) { return x / d; });
  else
    for_size([beta = problem.beta](Vec x, Vec d) { return x * power(d, -beta); });
}

// Pixels whose squares stay in the first-level cache.
int64_t block_of(const LrnProblem& problem) {
  return max_of<int64_t>(1, (12 << 10) / 4 / (problem.C + problem.size));
}

}  // namespace

void lrn(const LrnProblem& problem, const void* x, void* y, int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t bytes = problem.pixels * problem.C * sizeof(T), block = block_of(problem);
    const bool streaming = prepare_output(y, bytes);
    const int64_t blocks_a_task =
        max_of<int64_t>(1, (64 << 10) / (block * problem.C * (int64_t)sizeof(T) + 1));
    const int64_t per_task = block * blocks_a_task;
    parallel_for(threads_for_bytes(threads, 4 * bytes), (problem.pixels + per_task - 1) / per_task,
                 [&](int64_t task, int) {
                   Squares squares = padded(problem, nullptr);
                   squares.data = (float*)scratch(Scratch::task, block * squares.stride * sizeof(float));
                   const int64_t end = min_of(problem.pixels, (task + 1) * per_task);
                   for (int64_t pixel = task * per_task; pixel < end; pixel += block)
                     lrn_pixels(problem, squares, (const T*)x + pixel * problem.x_stride,
                                (T*)y + pixel * problem.y_stride, problem.y_stride,
                                min_of(block, end - pixel), streaming);
                   if (streaming) stream_end();
                 });
  });
}

void lrn_max_pool2d(const LrnProblem& problem, const Pool2dProblem& pool, const void* x, void* y,
                    int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t C = problem.C, W = pool.W, block = block_of(problem);
    const int64_t image_bytes = pool.H * W * C * sizeof(T);
    prepare_output(y, pool.N * pool.P * pool.Q * pool.y_stride * sizeof(T));
    threads = threads_for_bytes(threads, 4 * pool.N * image_bytes);
    // A task pools a band of output rows out of a ring of normalised rows. Two bands both normalise the rows
    // that their windows share, so bands are as tall as the threads allow.
    const int64_t bands = min_of(pool.P, max_of<int64_t>(1, pool.N >= threads ? 1 : 2 * threads));
    const int64_t reach = (pool.kernel_h - 1) * pool.dilation_h + 1;
    const int64_t ring_rows = min_of(reach, pool.H);
    parallel_for(threads, pool.N * bands, [&](int64_t task, int) {
      const int64_t n = task / bands;
      const Range band = part_of(pool.P, bands, task % bands);
      Squares squares = padded(problem, nullptr);
      const int64_t row_floats = W * C;
      const float** const window = (const float**)scratch(
          Scratch::task,
          pool.kernel_h * sizeof(float*) + (ring_rows * row_floats + block * squares.stride) * sizeof(float));
      float* const ring = (float*)(window + pool.kernel_h);
      squares.data = ring + ring_rows * row_floats;
      int64_t ready = 0;  // rows [.., ready) have been normalised
      for (int64_t p = band.begin; p < band.end; ++p) {
        const int64_t h0 = p * pool.stride_h - pool.pad_h;
        const Taps r = taps_inside(h0, pool.kernel_h, pool.dilation_h, pool.H);
        const int64_t last = min_of(h0 + reach, pool.H);
        for (ready = max_of(ready, max_of<int64_t>(h0, 0)); ready < last; ++ready) {
          const T* row = (const T*)x + (n * pool.H + ready) * W * problem.x_stride;
          float* to = ring + ready % ring_rows * row_floats;
          for (int64_t w = 0; w < W; w += block)
            lrn_pixels(problem, squares, row + w * problem.x_stride, to + w * C, C, min_of(block, W - w),
                       false);
        }
        for (int64_t i = r.begin; i < r.end; ++i)
          window[i - r.begin] = ring + (h0 + i * pool.dilation_h) % ring_rows * row_floats;
        for (int64_t q = 0; q < pool.Q; ++q) {
          const int64_t w0 = q * pool.stride_w - pool.pad_w;
          const Taps s = taps_inside(w0, pool.kernel_w, pool.dilation_w, W);
          T* const to = (T*)y + ((n * pool.P + p) * pool.Q + q) * pool.y_stride;
          auto row = [&](int64_t i) { return window[i] + (w0 + s.begin * pool.dilation_w) * C; };
          reduce_channels<PoolMode::max>(row, r.end - r.begin, s.end - s.begin, pool.dilation_w * C, C,
                                         [&](int64_t c, Vec best, int count) {
                                           if (count == kWidth)
                                             store(to + c, best);
                                           else
                                             store_partial(to + c, best, count);
                                         });
        }
      }
    });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
