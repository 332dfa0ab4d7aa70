// Depthwise convolution (groups = C = K), vectors across channels.
//
//   y[n, p, q, c] = act(bias[c] + residual[n, p, q, c] + sum_{r, s} x[n, h, w, c] * weight[c, r, s])
//
// kPixels neighbouring outputs of a line are computed together: each input of a line of taps is loaded once
// and multiplied into every output whose window contains it.
#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "ops/conv2d/kernels_cpu.h"
#include "ops/conv2d/shape_cpu.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

constexpr int kPixels = 8;

int64_t padded_channels(const Conv2dProblem& p) { return (p.C + kWidth - 1) / kWidth * kWidth; }

int64_t packed_bytes(const Conv2dProblem& p) { return p.R * p.S * padded_channels(p) * 4; }

// [tap][channel], zeros beyond C.
void pack(const Conv2dProblem& p, const float* weight, void* packed) {
  const int64_t taps = p.R * p.S, channels = padded_channels(p);
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t c = 0; c < channels; ++c)
      static_cast<float*>(packed)[t * channels + c] = c < p.C ? weight[c * taps + t] : 0;
}

template <class T>
FASTCNN_INLINE Vec load_lanes(const T* p, int lanes) {
  return lanes == kWidth ? load(p) : load_partial(p, lanes);
}

// kS, kStride: the kernel's width and stride along w, with dilation 1; kS = 0: known only at run time.
template <int kS, int kStride>
struct Line {
  static constexpr int kColumns = kS ? (kPixels - 1) * kStride + kS : 1;

  // Adds one line of taps: column(j) is the address of the j-th input that the outputs' windows contain.
  template <class Column>
  FASTCNN_INLINE void add(const Conv2dProblem& p, const float* weight, int64_t tap_stride, int lanes,
                          Column&& column, Vec (&acc)[kPixels]) {
    if constexpr (kS != 0) {
      Vec w[kS];
      FASTCNN_UNROLL for (int s = 0; s < kS; ++s) w[s] = load(weight + s * tap_stride);
      _Pragma("GCC unroll 32") for (int j = 0; j < kColumns; ++j) {
        const Vec x = load_lanes(column(j), lanes);
        FASTCNN_UNROLL for (int s = 0; s < kS;
                            ++s) if (j >= s && (j - s) % kStride == 0 && (j - s) / kStride < kPixels)
            acc[(j - s) / kStride] = fma(x, w[s], acc[(j - s) / kStride]);
      }
    } else {
      for (int64_t s = 0; s < p.S; ++s) {
        const Vec w = load(weight + s * tap_stride);
        FASTCNN_UNROLL for (int i = 0; i < kPixels; ++i) acc[i] =
            fma(load_lanes(column(i * p.stride_w + s * p.dilation_w), lanes), w, acc[i]);
      }
    }
  }
};

template <class T>
FASTCNN_INLINE void finish(const Conv2dProblem& p, const Conv2dPointers& at, int64_t pixel, int64_t c,
                           int lanes, int count, const Vec (&acc)[kPixels]) {
  const Vec bias = at.bias ? load_partial(at.bias + c, lanes) : zero();
  T* y = static_cast<T*>(at.y) + pixel * p.y_stride + c;
  const T* residual = static_cast<const T*>(at.residual) + (at.residual ? pixel * p.residual_stride + c : 0);
  for (int i = 0; i < count; ++i) {
    Vec v = acc[i] + bias;
    if (at.residual) v += load_lanes(residual + i * p.residual_stride, lanes);
    v = activate(p.activation, v);
    if (lanes == kWidth)
      store(y + i * p.y_stride, v);
    else
      store_partial(y + i * p.y_stride, v, lanes);
  }
}

template <class T, int kS, int kStride>
void run_line(const Conv2dProblem& p, const Conv2dPointers& at, int64_t n, int64_t out_line, const T* zeros,
              const T** table) {
  const T* x = static_cast<const T*>(at.x);
  const float* packed = static_cast<const float*>(at.packed);
  const int64_t channels = padded_channels(p), h0 = out_line * p.stride_h - p.pad_h;
  const int64_t columns = (kPixels - 1) * p.stride_w + (p.S - 1) * p.dilation_w + 1;
  for (int64_t q = 0; q < p.Q; q += kPixels) {
    const int count = static_cast<int>(min_of<int64_t>(kPixels, p.Q - q));
    const int64_t w0 = q * p.stride_w - p.pad_w;
    const bool interior = w0 >= 0 && w0 + columns <= p.W && count == kPixels;
    if (!interior)
      for (int64_t r = 0; r < p.R; ++r) {
        const int64_t h = h0 + r * p.dilation_h;
        for (int64_t j = 0; j < columns; ++j) {
          const bool inside = h >= 0 && h < p.H && w0 + j >= 0 && w0 + j < p.W;
          table[r * columns + j] = inside ? x + ((n * p.H + h) * p.W + w0 + j) * p.x_stride : zeros;
        }
      }
    for (int64_t c = 0; c < p.C; c += kWidth) {
      const int lanes = static_cast<int>(min_of<int64_t>(kWidth, p.C - c));
      Vec acc[kPixels];
      FASTCNN_UNROLL for (int i = 0; i < kPixels; ++i) acc[i] = zero();
      for (int64_t r = 0; r < p.R; ++r) {
        const int64_t h = h0 + r * p.dilation_h;
        if (h < 0 || h >= p.H) continue;
        const float* weight = packed + r * p.S * channels + c;
        if (interior && lanes == kWidth) {
          const T* line = x + ((n * p.H + h) * p.W + w0) * p.x_stride + c;
          Line<kS, kStride>::add(
              p, weight, channels, kWidth, [&](int64_t j) { return line + j * p.x_stride; }, acc);
        } else if (interior) {
          const T* line = x + ((n * p.H + h) * p.W + w0) * p.x_stride + c;
          Line<0, 0>::add(p, weight, channels, lanes, [&](int64_t j) { return line + j * p.x_stride; }, acc);
        } else {
          const T** line = table + r * columns;
          Line<0, 0>::add(p, weight, channels, lanes, [&](int64_t j) { return line[j] + c; }, acc);
        }
      }
      finish<T>(p, at, (n * p.P + out_line) * p.Q + q, c, lanes, count, acc);
    }
  }
}

template <class T, int kS, int kStride>
void run_lines(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
  threads = threads_for_bytes(threads, (p.H * p.W + p.P * p.Q) * p.N * p.C * 4);
  const int64_t zero_bytes = p.C * sizeof(T);
  T* zeros = static_cast<T*>(scratch(Scratch::call, zero_bytes));
  __builtin_memset(static_cast<void*>(zeros), 0, zero_bytes);
  const int64_t columns = (kPixels - 1) * p.stride_w + (p.S - 1) * p.dilation_w + 1;
  // Consecutive lines share input, so a task takes several.
  const int64_t lines = p.N * p.P, tasks = min_of(lines, max_of<int64_t>(8 * threads, lines / 8));
  parallel_for(threads, tasks, [&](int64_t task, int) {
    const T** table = static_cast<const T**>(scratch(Scratch::task, p.R * columns * sizeof(T*)));
    const Range range = part_of(lines, tasks, task);
    for (int64_t line = range.begin; line < range.end; ++line)
      run_line<T, kS, kStride>(p, at, line / p.P, line % p.P, zeros, table);
  });
}

void run(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    if (p.S == 3 && p.dilation_w == 1 && p.stride_w == 1) return run_lines<T, 3, 1>(p, at, threads);
    if (p.S == 3 && p.dilation_w == 1 && p.stride_w == 2) return run_lines<T, 3, 2>(p, at, threads);
    if (p.S == 5 && p.dilation_w == 1 && p.stride_w == 1) return run_lines<T, 5, 1>(p, at, threads);
    if (p.S == 5 && p.dilation_w == 1 && p.stride_w == 2) return run_lines<T, 5, 2>(p, at, threads);
    run_lines<T, 0, 0>(p, at, threads);
  });
}

}  // namespace

extern const Conv2dKernel depthwise_conv2d{packed_bytes, pack, run};

}  // namespace fastcnn::FASTCNN_ISA
