#include "ops/int8/int8_cpu.h"

#include "cpu/bytes.h"
#include "cpu/rows.h"
#include "ops/pool/pool_window.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

FASTCNN_INLINE Vec load_floats(const uint8_t* p, int count) {
  return to_float(count == kWidth ? load_bytes(p) : load_bytes_partial(p, count));
}
FASTCNN_INLINE IntVec load_ints_of(const uint8_t* p, int count) {
  return count == kWidth ? load_bytes(p) : load_bytes_partial(p, count);
}
FASTCNN_INLINE void store_lanes(uint8_t* p, IntVec a, int count) {
  if (count == kWidth)
    store_bytes(p, a);
  else
    store_bytes_partial(p, a, count);
}

// Calls f(i, lanes) for vectors that cover [0, length).
template <class F>
FASTCNN_INLINE void each_vector(int64_t length, F&& f) {
  int64_t i = 0;
  for (; i + kWidth <= length; i += kWidth) f(i, kWidth);
  if (i < length) f(i, (int)(length - i));
}

// The nearest byte above `zero`; NaN counts as the lowest.
FASTCNN_INLINE IntVec quantized(Vec x, const QuantizeProblem& p) {
  const Vec f = min(broadcast(512.f), max(x * broadcast(p.inverse_scale), broadcast(-512.f)));
  return to_nearest(f) + p.zero;
}

void quantize_planes(const QuantizeProblem& p, const float* x, uint8_t* y, int threads) {
  constexpr int64_t kPixels = 1024;
  const int64_t blocks = (p.pixels + kPixels - 1) / kPixels;
  parallel_for(threads, p.N * blocks, [&](int64_t task, int) {
    const int64_t n = task / blocks;
    const Range range = part_of(p.pixels, blocks, task % blocks);
    const float* image = x + n * p.x_image;
    uint8_t* to = y + n * p.pixels * p.y_stride;
    for (int64_t c = 0; c < p.C; ++c)
      each_vector(range.end - range.begin, [&](int64_t i, int lanes) {
        const int64_t pixel = range.begin + i;
        const float* from = image + pixel * p.x_stride + c * p.x_channel;
        Vec values;
        if (p.x_stride == 1) {
          values = load_lanes(from, lanes);
        } else {
          for (int lane = 0; lane < kWidth; ++lane) values[lane] = lane < lanes ? from[lane * p.x_stride] : 0;
        }
        const IntVec bytes = clamp(quantized(values, p), 0, 255);
        for (int lane = 0; lane < lanes; ++lane) to[(pixel + lane) * p.y_stride + c] = (uint8_t)bytes[lane];
      });
  });
}

}  // namespace

void quantize(const QuantizeProblem& p, const float* x, uint8_t* y, int threads) {
  threads = threads_for_bytes(threads, 5 * p.N * p.pixels * p.C);
  if (p.x_channel != 1 || p.x_image != p.pixels * p.x_stride) return quantize_planes(p, x, y, threads);
  for_each_run(threads, p.N * p.pixels, p.C, p.x_stride == p.C && p.y_stride == p.C,
               [&](int64_t pixel, int64_t channel, int64_t length) {
                 const float* from = x + pixel * p.x_stride + channel;
                 uint8_t* to = y + pixel * p.y_stride + channel;
                 each_vector(length, [&](int64_t i, int lanes) {
                   store_lanes(to + i, quantized(load_lanes(from + i, lanes), p), lanes);
                 });
               });
}

void dequantize(const DequantizeProblem& p, const uint8_t* x, float* y, int threads) {
  for_each_run(threads_for_bytes(threads, 5 * p.pixels * p.C), p.pixels, p.C,
               p.x_stride == p.C && p.y_stride == p.C, [&](int64_t pixel, int64_t channel, int64_t length) {
                 const uint8_t* from = x + pixel * p.x_stride + channel;
                 write_run(y + pixel * p.y_stride + channel, length, false, [&](int64_t i, int lanes) {
                   return to_float(load_ints_of(from + i, lanes) - p.zero) * broadcast(p.scale);
                 });
               });
}

void byte_table(const ByteTableProblem& p, const uint8_t* x, const uint8_t* table, uint8_t* y, int threads) {
  for_each_run(threads_for_bytes(threads, 4 * p.pixels * p.C), p.pixels, p.C,
               p.x_stride == p.C && p.y_stride == p.C, [&](int64_t pixel, int64_t channel, int64_t length) {
                 const uint8_t* from = x + pixel * p.x_stride + channel;
                 uint8_t* to = y + pixel * p.y_stride + channel;
                 for (int64_t i = 0; i < length; ++i) to[i] = table[from[i]];
               });
}

void int8_add(const Int8AddProblem& p, const uint8_t* a, const uint8_t* b, uint8_t* y, int threads) {
  const bool dense = p.a_stride == p.C && p.b_stride == p.C && p.y_stride == p.C;
  for_each_run(threads_for_bytes(threads, 3 * p.pixels * p.C), p.pixels, p.C, dense,
               [&](int64_t pixel, int64_t channel, int64_t length) {
                 const uint8_t* pa = a + pixel * p.a_stride + channel;
                 const uint8_t* pb = b + pixel * p.b_stride + channel;
                 uint8_t* to = y + pixel * p.y_stride + channel;
                 each_vector(length, [&](int64_t i, int lanes) {
                   const Vec fa = to_float(load_ints_of(pa + i, lanes) - p.a_zero) * broadcast(p.a_scale);
                   const Vec fb = to_float(load_ints_of(pb + i, lanes) - p.b_zero) * broadcast(p.b_scale);
                   const Vec f = min(broadcast(512.f), max(fa + fb, broadcast(-512.f)));
                   store_lanes(to + i, clamp(to_nearest(f) + p.y_zero, p.low, p.high), lanes);
                 });
               });
}

namespace {

typedef uint8_t FullBytes __attribute__((vector_size(FASTCNN_SIMD_BYTES)));
typedef FullBytes UnalignedFullBytes __attribute__((aligned(1), may_alias));

struct Window {
  Taps r, s;
  const uint8_t* first;
  int64_t line, step;  // bytes from a row of taps to the next, from a tap to the next
};

void max_window(const Window& w, int64_t C, uint8_t* y) {
  for (int64_t c = 0; c < C; c += FASTCNN_SIMD_BYTES) {
    const int64_t lanes = min_of<int64_t>(FASTCNN_SIMD_BYTES, C - c);
    FullBytes best = {};
    for (int64_t r = 0; r < w.r.end - w.r.begin; ++r)
      for (int64_t s = 0; s < w.s.end - w.s.begin; ++s) {
        const uint8_t* x = w.first + r * w.line + s * w.step + c;
        FullBytes value = {};
        if (lanes == FASTCNN_SIMD_BYTES)
          value = *(const UnalignedFullBytes*)x;
        else
          __builtin_memcpy(&value, x, lanes);
        best = value > best ? value : best;
      }
    if (lanes == FASTCNN_SIMD_BYTES)
      *(UnalignedFullBytes*)(y + c) = best;
    else
      __builtin_memcpy(y + c, &best, lanes);
  }
}

void average_window(const Int8PoolProblem& p, const Window& w, int64_t divisor, uint8_t* y) {
  const int64_t rows = max_of<int64_t>(0, w.r.end - w.r.begin),
                columns = max_of<int64_t>(0, w.s.end - w.s.begin);
  const Vec scale = broadcast(p.scale) / broadcast((float)divisor);
  each_vector(p.C, [&](int64_t c, int lanes) {
    IntVec sum = broadcast_int((int32_t)(-rows * columns * p.x_zero));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t s = 0; s < columns; ++s) sum += load_ints_of(w.first + r * w.line + s * w.step + c, lanes);
    const Vec f = min(broadcast(512.f), max(to_float(sum) * scale, broadcast(-512.f)));
    store_lanes(y + c, to_nearest(f) + p.y_zero, lanes);
  });
}

}  // namespace

void int8_pool2d(const Int8PoolProblem& p, const uint8_t* x, uint8_t* y, int threads) {
  const int64_t taps = min_of(p.kernel_h * p.kernel_w, p.H * p.W);
  parallel_for(threads_for_bytes(threads, p.N * p.P * p.Q * p.C * taps), p.N * p.P, [&](int64_t row, int) {
    const int64_t h = row % p.P * p.stride_h - p.pad_h;
    const Taps r = taps_inside(h, p.kernel_h, p.dilation_h, p.H);
    for (int64_t q = 0; q < p.Q; ++q) {
      const int64_t w = q * p.stride_w - p.pad_w;
      const Taps s = taps_inside(w, p.kernel_w, p.dilation_w, p.W);
      const int64_t pixel = (row / p.P * p.H + h + r.begin * p.dilation_h) * p.W + w + s.begin * p.dilation_w;
      const Window window{r, s, x + pixel * p.x_stride, p.dilation_h * p.W * p.x_stride,
                          p.dilation_w * p.x_stride};
      uint8_t* to = y + (row * p.Q + q) * p.y_stride;
      if (p.mode == PoolMode::max) {
        max_window(window, p.C, to);
        continue;
      }
      int64_t count = max_of<int64_t>(0, r.end - r.begin) * max_of<int64_t>(0, s.end - s.begin);
      if (p.count_include_pad)
        count = (min_of(h + p.kernel_h, p.H + p.pad_h) - h) * (min_of(w + p.kernel_w, p.W + p.pad_w) - w);
      average_window(p, window, p.divisor_override ? p.divisor_override : count, to);
    }
  });
}

}  // namespace fastcnn::FASTCNN_ISA
