// Convolution to few output channels: vectors run along the image's width instead of along the channels.
//
// With K = 6 (LeNet-5's first layer) a vector of 16 channels would be idle by more
// than half. Here a tile is kVectors vectors of pixels of one output line by up to
// kChannels output channels; its sums are transposed on their way out. Input lines
// are first copied, zero-padded and one plane a channel, so that a tap is one load.
#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "ops/conv2d/kernels_cpu.h"
#include "ops/conv2d/shape_cpu.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

constexpr int kChannels = 6, kVectors = 2;  // 12 accumulators, which 16 registers hold beside their operands
constexpr int kTile = kVectors * kWidth;

int64_t packed_bytes(const Conv2dProblem& p) { return p.K * p.C * p.R * p.S * 4; }

// [chunk of channels][c][r][s][channel]
void pack(const Conv2dProblem& p, const float* weight, WeightForm form, void* packed, int) {
  const int64_t chunks = (p.K + kChannels - 1) / kChannels, taps = p.R * p.S;
  float* out = static_cast<float*>(packed);
  for (int64_t i = 0; i < chunks; ++i) {
    const Range part = part_of(p.K, chunks, i);
    for (int64_t c = 0; c < p.C; ++c)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t k = part.begin; k < part.end; ++k) *out++ = weight[weight_index(p, form, k, c, tap)];
  }
}

// Channel c of line h, from pixel -pad_w on, as fp32; zeros outside the image.
template <class T>
void stage_plane(const Conv2dProblem& p, const T* x, int64_t n, int64_t h, int64_t c, int64_t pixels,
                 float* out) {
  const bool inside = h >= 0 && h < p.H;
  const int64_t begin = inside ? min_of(pixels, p.pad_w) : pixels;
  const int64_t end = inside ? max_of(begin, min_of(pixels, p.W + p.pad_w)) : pixels;
  for (int64_t i = 0; i < begin; ++i) out[i] = 0;
  if (begin < end) {
    const T* line = x + ((n * p.H + h) * p.W - p.pad_w) * p.x_stride + c;
    if (p.x_stride == 1)
      copy_run(line + begin, end - begin, out + begin);
    else
      for (int64_t i = begin; i < end; ++i) store_partial(out + i, load_partial(line + i * p.x_stride, 1), 1);
  }
  for (int64_t i = end; i < pixels; ++i) out[i] = 0;
}

// Channels [0, KT) of kTile pixels. x: the first tap of the first pixel; planes, lines: distances.
// sums [pixel][KT], bias and activation applied.
template <int KT>
__attribute__((noinline)) void tile(const Conv2dProblem& p, const float* x, int64_t plane, int64_t line,
                                    const float* weight, const float* bias, float* sums) {
  Vec acc[KT][kVectors];
  FASTCNN_UNROLL for (int k = 0; k < KT; ++k) {
    const Vec start = bias ? broadcast(bias[k]) : zero();
    FASTCNN_UNROLL for (int v = 0; v < kVectors; ++v) acc[k][v] = start;
  }
  for (int64_t c = 0; c < p.C; ++c)
    for (int64_t r = 0; r < p.R; ++r) {
      const float* row = x + c * plane + r * line;
      for (int64_t s = 0; s < p.S; ++s, row += p.dilation_w, weight += KT) {
        Vec value[kVectors];
        FASTCNN_UNROLL for (int v = 0; v < kVectors; ++v) value[v] = load(row + v * kWidth);
        FASTCNN_UNROLL for (int k = 0; k < KT; ++k) {
          const Vec w = broadcast(weight[k]);
          FASTCNN_UNROLL for (int v = 0; v < kVectors; ++v) acc[k][v] = fma(value[v], w, acc[k][v]);
        }
      }
    }
  alignas(64) float lanes[KT][kTile];
  FASTCNN_UNROLL for (int k = 0; k < KT; ++k) FASTCNN_UNROLL for (int v = 0; v < kVectors; ++v) {
    const Vec a = acc[k][v];
    store(lanes[k] + v * kWidth,
          p.activation == Activation::relu ? max(zero(), a) : activate(p.activation, a));
  }
  for (int i = 0; i < kTile; ++i) FASTCNN_UNROLL for (int k = 0; k < KT; ++k) sums[i * KT + k] = lanes[k][i];
}

template <int KT = kChannels>
void tile_of(int64_t channels, const Conv2dProblem& p, const float* x, int64_t plane, int64_t line,
             const float* weight, const float* bias, float* sums) {
  if constexpr (KT > 1)
    if (channels < KT) return tile_of<KT - 1>(channels, p, x, plane, line, weight, bias, sums);
  tile<KT>(p, x, plane, line, weight, bias, sums);
}

template <class T>
void copy_out(const float* x, int64_t count, T* y) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(y + i, load(x + i));
  if (i < count)
    store_partial(y + i, load_partial(x + i, static_cast<int>(count - i)), static_cast<int>(count - i));
}

void run(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
  threads = threads_for_conv(p, threads);
  const int64_t tiles = (p.Q + kTile - 1) / kTile, chunks = (p.K + kChannels - 1) / kChannels;
  const int64_t pixels = tiles * kTile + (p.S - 1) * p.dilation_w, reach = (p.R - 1) * p.dilation_h + 1;
  // Bands of output lines whose input stays in the first-level cache, as far as it goes.
  constexpr int64_t kBandFloats = 4 << 10;
  const int64_t lines = max_of<int64_t>(1, (kBandFloats / (pixels * p.C) - reach) / p.stride_h + 1);
  const int64_t bands = max_of((p.P + lines - 1) / lines, min_of<int64_t>(p.P, (threads + p.N - 1) / p.N));

  parallel_for(threads, p.N * bands, [&](int64_t task, int) {
    const int64_t n = task / bands;
    const Range band = part_of(p.P, bands, task % bands);
    const int64_t input_lines = (band.end - band.begin - 1) * p.stride_h + reach,
                  plane = input_lines * pixels;
    float* const staged = static_cast<float*>(scratch(Scratch::task, p.C * plane * 4));
    with_dtype(p.dtype, [&](auto type) {
      using T = decltype(type);
      for (int64_t c = 0; c < p.C; ++c)
        for (int64_t i = 0; i < input_lines; ++i)
          stage_plane(p, static_cast<const T*>(at.x), n, band.begin * p.stride_h - p.pad_h + i, c, pixels,
                      staged + c * plane + i * pixels);
      alignas(64) float sums[kTile * kChannels];
      for (int64_t line = band.begin; line < band.end; ++line)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
          const Range part = part_of(p.K, chunks, chunk);
          const int64_t channels = part.end - part.begin;
          const float* weight = static_cast<const float*>(at.weight) + part.begin * p.C * p.R * p.S;
          for (int64_t q = 0; q < p.Q; q += kTile) {
            tile_of(channels, p, staged + (line - band.begin) * p.stride_h * pixels + q, plane,
                    p.dilation_h * pixels, weight, at.bias ? at.bias + part.begin : nullptr, sums);
            const int64_t count = min_of<int64_t>(kTile, p.Q - q);
            T* y = static_cast<T*>(at.y) + ((n * p.P + line) * p.Q + q) * p.y_stride + part.begin;
            if (p.y_stride == channels)
              copy_out(sums, count * channels, y);
            else
              for (int64_t i = 0; i < count; ++i) copy_out(sums + i * channels, channels, y + i * p.y_stride);
          }
        }
    });
  });
}

}  // namespace

extern const Conv2dKernel narrow_conv2d{packed_bytes, pack, run, nullptr};

}  // namespace fastcnn::FASTCNN_ISA
