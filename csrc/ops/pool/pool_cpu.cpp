#include "ops/pool/pool_cpu.h"

#include "cpu/rows.h"
#include "ops/pool/pool_window.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

// The divisor of the average over taps r x s of the window that starts at (h0, w0).
FASTCNN_INLINE Vec divisor_of(const Pool2dProblem& problem, int64_t h0, int64_t w0, Taps r, Taps s) {
  if (problem.divisor_override) return broadcast((float)problem.divisor_override);
  if (!problem.count_include_pad)
    return broadcast((float)(max_of<int64_t>(0, r.end - r.begin) * max_of<int64_t>(0, s.end - s.begin)));
  const int64_t rows = min_of(h0 + problem.kernel_h, problem.H + problem.pad_h) - h0;
  return broadcast((float)(rows * (min_of(w0 + problem.kernel_w, problem.W + problem.pad_w) - w0)));
}

template <PoolMode kMode, class T>
void pool_row(const Pool2dProblem& problem, const T* image, T* y, int64_t p, bool streaming) {
  const int64_t h0 = p * problem.stride_h - problem.pad_h;
  const Taps r = taps_inside(h0, problem.kernel_h, problem.dilation_h, problem.H);
  const int64_t rows = max_of<int64_t>(0, r.end - r.begin);
  const int64_t row_step = problem.dilation_h * problem.W * problem.x_stride;
  const int64_t column_step = problem.dilation_w * problem.x_stride;
  const T* first_row = image + (h0 + r.begin * problem.dilation_h) * problem.W * problem.x_stride;
  for (int64_t q = 0; q < problem.Q; ++q, y += problem.y_stride) {
    const int64_t w0 = q * problem.stride_w - problem.pad_w;
    const Taps s = taps_inside(w0, problem.kernel_w, problem.dilation_w, problem.W);
    const int64_t columns = max_of<int64_t>(0, s.end - s.begin);
    const T* x = first_row + (w0 + s.begin * problem.dilation_w) * problem.x_stride;
    const Vec divisor = divisor_of(problem, h0, w0, r, s);
    auto row = [&](int64_t r) { return x + r * row_step; };
    reduce_channels<kMode>(row, rows, columns, column_step, problem.C, [&](int64_t c, Vec acc, int count) {
      if (kMode == PoolMode::average) acc = acc / divisor;
      if (count < kWidth)
        store_partial(y + c, acc, count);
      else if (streaming)
        stream(y + c, acc);
      else
        store(y + c, acc);
    });
  }
}

// As pool_row for pixels that lie end to end and fill less than a vector: the window's rows are reduced for
// the whole line at once, and only its columns pixel by pixel. Whole vectors are stored there, each over what
// the one before wrote too many.
template <PoolMode kMode, class T>
void pool_narrow_row(const Pool2dProblem& problem, const T* image, T* y, int64_t p) {
  const int64_t C = problem.C, floats = problem.W * C;
  const int64_t h0 = p * problem.stride_h - problem.pad_h;
  const Taps r = taps_inside(h0, problem.kernel_h, problem.dilation_h, problem.H);
  const T* first_row = image + (h0 + r.begin * problem.dilation_h) * floats;
  float* const line = (float*)scratch(Scratch::task, (floats + problem.Q * C + 2 * kWidth) * sizeof(float));
  float* const result = line + floats + kWidth;
  auto row = [&](int64_t i) { return first_row + i * problem.dilation_h * floats; };
  reduce_channels<kMode>(row, max_of<int64_t>(0, r.end - r.begin), 1, 0, floats,
                         [&](int64_t i, Vec acc, int) { store(line + i, acc); });
  for (int64_t q = 0; q < problem.Q; ++q) {
    const int64_t w0 = q * problem.stride_w - problem.pad_w;
    const Taps s = taps_inside(w0, problem.kernel_w, problem.dilation_w, problem.W);
    auto tap = [&](int64_t) { return line + (w0 + s.begin * problem.dilation_w) * C; };
    Vec acc[1];
    reduce<kMode>(tap, 0, 1, s.end - s.begin, problem.dilation_w * C, acc);
    if (kMode == PoolMode::average) acc[0] = acc[0] / divisor_of(problem, h0, w0, r, s);
    store(result + q * C, acc[0]);
  }
  auto write = [&](int64_t at, int64_t length, T* to) {
    write_run(to, length, false, [&](int64_t i, int) { return load(result + at + i); });
  };
  if (problem.y_stride == C) return write(0, problem.Q * C, y);
  for (int64_t q = 0; q < problem.Q; ++q) write(q * C, C, y + q * problem.y_stride);
}

// Vectors of channels summed together: the longer the run of memory, the nearer to its full speed.
constexpr int kRun = kWidth == 16 ? 16 : 8;

template <class T>
void adaptive_window(const AdaptiveAvgPool2dProblem& problem, const T* image, T* y, int64_t p, int64_t q,
                     int64_t c0, int64_t c1) {
  const int64_t h0 = p * problem.H / problem.P, h1 = ((p + 1) * problem.H + problem.P - 1) / problem.P;
  const int64_t w0 = q * problem.W / problem.Q, w1 = ((q + 1) * problem.W + problem.Q - 1) / problem.Q;
  const Vec scale = broadcast((float)((h1 - h0) * (w1 - w0)));
  const T* x = image + (h0 * problem.W + w0) * problem.x_stride;
  const int64_t row_step = problem.W * problem.x_stride;
  // Row by row, for all channels: the rounding error grows with H + W rather than H * W, and memory is read
  // in order.
  float* const total = (float*)scratch(Scratch::task, (c1 - c0) * sizeof(float)) - c0;
  for (int64_t h = 0; h < h1 - h0; ++h) {
    auto row = [&](int64_t) { return x + h * row_step; };
    auto add = [&](int64_t c, Vec sum, int count) {
      float* const at = total + c;
      if (count == kWidth)
        store(at, h == 0 ? sum : load(at) + sum);
      else
        store_partial(at, h == 0 ? sum : load_partial(at, count) + sum, count);
    };
    int64_t c = c0;
    for (; c + kRun * kWidth <= c1; c += kRun * kWidth) {
      Vec sums[kRun];
      reduce<PoolMode::average>(row, c, 1, w1 - w0, problem.x_stride, sums);
#pragma GCC unroll 16
      for (int u = 0; u < kRun; ++u) add(c + u * kWidth, sums[u], kWidth);
    }
    reduce_channels<PoolMode::average>([&](int64_t i) { return row(i) + c; }, 1, w1 - w0, problem.x_stride,
                                       c1 - c,
                                       [&](int64_t i, Vec sum, int count) { add(c + i, sum, count); });
  }
  for (int64_t c = c0; c < c1; c += kWidth) {
    const int count = (int)min_of<int64_t>(kWidth, c1 - c);
    store_partial(y + c, load_partial(total + c, count) / scale, count);
  }
}

}  // namespace

void pool2d(const Pool2dProblem& problem, const void* x, void* y, int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t input = problem.N * problem.H * problem.W * problem.C * sizeof(T);
    const bool streaming =
        prepare_output(y, problem.N * problem.P * problem.Q * problem.y_stride * sizeof(T)) &&
        (uintptr_t)y % FASTCNN_SIMD_BYTES == 0 && problem.y_stride * sizeof(T) % FASTCNN_SIMD_BYTES == 0;
    const bool narrow = problem.C < kWidth && problem.x_stride == problem.C;
    parallel_for(threads_for_bytes(threads, 2 * input), problem.N * problem.P, [&](int64_t task, int) {
      const int64_t n = task / problem.P, p = task % problem.P;
      const T* image = (const T*)x + n * problem.H * problem.W * problem.x_stride;
      T* row = (T*)y + task * problem.Q * problem.y_stride;
      if (problem.mode == PoolMode::max)
        narrow ? pool_narrow_row<PoolMode::max>(problem, image, row, p)
               : pool_row<PoolMode::max>(problem, image, row, p, streaming);
      else
        narrow ? pool_narrow_row<PoolMode::average>(problem, image, row, p)
               : pool_row<PoolMode::average>(problem, image, row, p, streaming);
      if (streaming) stream_end();
    });
  });
}

void adaptive_avg_pool2d(const AdaptiveAvgPool2dProblem& problem, const void* x, void* y, int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    threads = threads_for_bytes(threads, problem.N * problem.H * problem.W * problem.C * sizeof(T));
    // Global pooling of one image has one window: its channels are shared out instead.
    const int64_t windows = problem.N * problem.P * problem.Q;
    const int64_t slices = windows >= 4 * threads ? 1 : max_of<int64_t>(1, problem.C / (4 * kWidth));
    parallel_for(threads, windows * slices, [&](int64_t task, int) {
      const int64_t window = task / slices, slice = task % slices;
      const int64_t n = window / (problem.P * problem.Q), pq = window % (problem.P * problem.Q);
      const int64_t c0 = slice * 4 * kWidth, c1 = slice == slices - 1 ? problem.C : c0 + 4 * kWidth;
      adaptive_window(problem, (const T*)x + n * problem.H * problem.W * problem.x_stride,
                      (T*)y + window * problem.y_stride, pq / problem.Q, pq % problem.Q, c0, c1);
    });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
