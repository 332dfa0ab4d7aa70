// Convolution of narrow groups, depthwise (groups = C = K) included: vectors across output channels.
//
//   y[n, p, q, k] = act(bias[k] + residual[n, p, q, k] + sum_{r, s, c} x[n, h, w, g * C/groups + c] *
//                                                                      weight[k, c, r, s])
//
// A GEMM over so few channels would leave most lanes of its panels empty. Here a vector of output channels
// spans several groups, and one permutation of a vector of inputs puts channel c of each lane's group into
// that lane. kPixels neighbouring outputs of a line are computed together, so that each input of a line of
// taps is loaded and permuted once for all outputs whose windows contain it.
#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "ops/conv2d/kernels_cpu.h"
#include "ops/conv2d/shape_cpu.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

// Divides the lines of most networks, 7, 14, 28, 56 and 112
// pixels; enough sums to hide the latency of an fma.
constexpr int kPixels = 7;

// Vectors of output channels. The last begins where it ends with K: it computes some channels again rather
// than work on a part of a vector. Only where K < kWidth is there a part.
struct ChannelVectors {
  int64_t channels;

  int64_t count() const { return (channels + kWidth - 1) / kWidth; }
  int64_t first(int64_t i) const { return max_of<int64_t>(0, min_of(i * kWidth, channels - kWidth)); }
};

int64_t vector_floats(const Conv2dProblem& p) { return p.R * p.S * (p.C / p.groups) * kWidth; }

int64_t packed_bytes(const Conv2dProblem& p) { return ChannelVectors{p.K}.count() * vector_floats(p) * 4; }

// [vector][r][c][s][lane], zeros beyond K.
void pack(const Conv2dProblem& p, const float* weight, WeightForm form, void* packed, int) {
  const ChannelVectors vectors{p.K};
  const int64_t channels = p.C / p.groups;
  float* out = static_cast<float*>(packed);
  for (int64_t i = 0; i < vectors.count(); ++i)
    for (int64_t r = 0; r < p.R; ++r)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t s = 0; s < p.S; ++s)
          for (int64_t lane = 0; lane < kWidth; ++lane) {
            const int64_t k = vectors.first(i) + lane;
            *out++ = k < p.K ? weight[weight_index(p, form, k, c, r * p.S + s)] : 0;
          }
}

// How a vector of output channels reads channel c of its lanes' groups.
enum class Spread {
  same,       // depthwise: each lane its own channel
  broadcast,  // all lanes are of one group
  permute,    // several groups a vector
};

Spread spread_of(const Conv2dProblem& p) {
  if (p.C == p.groups && p.K == p.groups) return Spread::same;
  return p.K / p.groups % kWidth == 0 ? Spread::broadcast : Spread::permute;
}

// Input columns that the windows of kPixels neighbouring outputs contain.
int64_t columns_of(const Conv2dProblem& p) {
  return (kPixels - 1) * p.stride_w + (p.S - 1) * p.dilation_w + 1;
}

// Adds one line of taps of one input channel to kPixels outputs; input(j) is the vector of column j. kS,
// kStride: the kernel's width and stride along w, with dilation 1; kS = 0: known only at run time.
template <int kS, int kStride, class Input>
FASTCNN_INLINE void add_line(const Conv2dProblem& p, const float* weight, Input&& input,
                             Vec (&acc)[kPixels]) {
  if constexpr (kS != 0) {
    Vec w[kS];
    FASTCNN_UNROLL for (int s = 0; s < kS; ++s) w[s] = load(weight + s * kWidth);
    _Pragma("GCC unroll 32") for (int j = 0; j < (kPixels - 1) * kStride + kS; ++j) {
      const Vec x = input(j);
      FASTCNN_UNROLL for (int s = 0; s < kS;
                          ++s) if (j >= s && (j - s) % kStride == 0 && (j - s) / kStride < kPixels)
          acc[(j - s) / kStride] = fma(x, w[s], acc[(j - s) / kStride]);
    }
  } else {
    for (int64_t s = 0; s < p.S; ++s) {
      const Vec w = load(weight + s * kWidth);
      FASTCNN_UNROLL for (int i = 0; i < kPixels; ++i) acc[i] =
          fma(input(i * p.stride_w + s * p.dilation_w), w, acc[i]);
    }
  }
}

// Pixels w0..w0+pixels-1 of an input line, `channels` channels from x on, zeros outside the image, as fp32
// [block of kWidth channels][pixel][kWidth].
template <class T>
void stage_line(const Conv2dProblem& p, const T* x, int64_t w0, int64_t pixels, int64_t channels,
                float* staged) {
  const int64_t begin = min_of(pixels, max_of<int64_t>(0, -w0));
  const int64_t end = max_of(begin, min_of(pixels, p.W - w0));
  for (int64_t c = 0; c < channels; c += kWidth, staged += pixels * kWidth) {
    const int lanes = static_cast<int>(min_of<int64_t>(kWidth, channels - c));
    const T* pixel = x + (w0 + begin) * p.x_stride + c;
    for (int64_t j = 0; j < begin; ++j) store(staged + j * kWidth, zero());
    if (lanes == kWidth)
      for (int64_t j = begin; j < end; ++j, pixel += p.x_stride) {
        store(staged + j * kWidth, load(pixel));
        prefetch(pixel + kWidth);  // of the group that comes next
      }
    else
      for (int64_t j = begin; j < end; ++j, pixel += p.x_stride)
        store(staged + j * kWidth, load_partial(pixel, lanes));
    for (int64_t j = end; j < pixels; ++j) store(staged + j * kWidth, zero());
  }
}

template <class T>
FASTCNN_INLINE void finish(const Conv2dProblem& p, const Conv2dPointers& at, int64_t pixel, int64_t k,
                           int lanes, int64_t count, const Vec (&acc)[kPixels]) {
  const Vec bias = at.bias ? load_partial(at.bias + k, lanes) : zero();
  T* y = static_cast<T*>(at.y) + pixel * p.y_stride + k;
  const T* residual = static_cast<const T*>(at.residual) + (at.residual ? pixel * p.residual_stride + k : 0);
  const bool relu = p.activation == Activation::relu, other = !relu && p.activation != Activation::none;
  FASTCNN_UNROLL for (int i = 0; i < kPixels; ++i) if (i < count) {
    Vec v = acc[i] + bias;
    if (at.residual) {
      const T* from = residual + i * p.residual_stride;
      v += lanes == kWidth ? load(from) : load_partial(from, lanes);
    }
    if (relu) v = max(zero(), v);
    if (other) v = activate(p.activation, v);
    if (lanes == kWidth)
      store(y + i * p.y_stride, v);
    else
      store_partial(y + i * p.y_stride, v, lanes);
  }
}

// One line of outputs, channel vectors `range`, of groups that share vectors: inputs are read in place, at
// the image's borders through `table`, [r][column].
template <class T, bool kDepthwise, int kS, int kStride>
void run_line(const Conv2dProblem& p, const Conv2dPointers& at, int64_t line, Range range, const T* zeros,
              const T** table) {
  const T* x = static_cast<const T*>(at.x);
  const ChannelVectors vectors{p.K};
  const int64_t in_group = kDepthwise ? 1 : p.C / p.groups, out_group = kDepthwise ? 1 : p.K / p.groups;
  const int64_t n = line / p.P, h0 = line % p.P * p.stride_h - p.pad_h, columns = columns_of(p);
  IntVec lane_of_group{};  // where a lane finds channel 0 of its group
  for (int l = 0; l < kWidth; ++l) lane_of_group[l] = static_cast<int>(l / out_group * in_group);

  for (int64_t q = 0; q < p.Q; q += kPixels) {
    const int64_t w0 = q * p.stride_w - p.pad_w;
    const bool interior = w0 >= 0 && w0 + columns <= p.W;
    if (!interior)
      for (int64_t r = 0; r < p.R; ++r) {
        const int64_t h = h0 + r * p.dilation_h;
        for (int64_t j = 0; j < columns; ++j) {
          const bool inside = h >= 0 && h < p.H && w0 + j >= 0 && w0 + j < p.W;
          table[r * columns + j] = inside ? x + ((n * p.H + h) * p.W + w0 + j) * p.x_stride : zeros;
        }
      }
    for (int64_t i = range.begin; i < range.end; ++i) {
      const int64_t k = vectors.first(i), from = k / out_group * in_group;
      const int lanes = static_cast<int>(min_of<int64_t>(kWidth, p.C - from));
      const float* weight = static_cast<const float*>(at.weight) + i * vector_floats(p);
      Vec acc[kPixels];
      FASTCNN_UNROLL for (int j = 0; j < kPixels; ++j) acc[j] = zero();
      for (int64_t r = 0; r < p.R; ++r) {
        const int64_t h = h0 + r * p.dilation_h;
        if (h < 0 || h >= p.H) {
          weight += in_group * p.S * kWidth;
          continue;
        }
        const T* first = x + ((n * p.H + h) * p.W + w0) * p.x_stride + from;
        const T* const* entries = table + r * columns;
        IntVec lane = lane_of_group;
        for (int64_t c = 0; c < in_group; ++c, lane += 1, weight += p.S * kWidth) {
          auto spread = [&](Vec v)
                            __attribute__((always_inline)) { return kDepthwise ? v : permute(v, lane); };
          if (lanes < kWidth)
            add_line<0, 0>(
                p, weight,
                [&](int64_t j) {
                  return spread(load_partial(interior ? first + j * p.x_stride : entries[j] + from, lanes));
                },
                acc);
          else if (interior)
            add_line<kS, kStride>(
                p, weight, [&](int64_t j) { return spread(load(first + j * p.x_stride)); }, acc);
          else
            add_line<kS, kStride>(p, weight, [&](int64_t j) { return spread(load(entries[j] + from)); }, acc);
        }
      }
      finish<T>(p, at, line * p.Q + q, k, static_cast<int>(min_of<int64_t>(kWidth, p.K)), p.Q - q, acc);
    }
  }
}

template <class T, bool kDepthwise, int kS, int kStride>
void run_in_place(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
  threads = max_of(threads_for_conv(p, threads),
                   threads_for_bytes(threads, (p.N * p.H * p.W * p.C + p.N * p.P * p.Q * p.K) * 4));
  T* zeros = static_cast<T*>(scratch(Scratch::call, p.C * sizeof(T)));
  __builtin_memset(static_cast<void*>(zeros), 0, p.C * sizeof(T));
  // A task is a range of lines, as consecutive lines share input, by a range of vectors whose weights stay in
  // L2: each group's channels are read by its own vectors alone, so cutting there costs nothing.
  constexpr int64_t kWeightBytes = 128 << 10;
  const int64_t lines = p.N * p.P, vectors = ChannelVectors{p.K}.count();
  const int64_t fitting = max_of<int64_t>(1, kWeightBytes / (vector_floats(p) * 4));
  int64_t cuts = (vectors + fitting - 1) / fitting;
  const int64_t ranges = min_of(lines, max_of((8 * threads + cuts - 1) / cuts, lines / 8));
  if (ranges * cuts < 8 * threads) cuts = min_of(vectors, (8 * threads + ranges - 1) / ranges);
  parallel_for(threads, cuts * ranges, [&](int64_t task, int) {
    const T** table = static_cast<const T**>(scratch(Scratch::task, p.R * columns_of(p) * sizeof(T*)));
    const Range range = part_of(lines, ranges, task % ranges), part = part_of(vectors, cuts, task / ranges);
    for (int64_t line = range.begin; line < range.end; ++line)
      run_line<T, kDepthwise, kS, kStride>(p, at, line, part, zeros, table);
  });
}

// Lines `lines` of image n, channel vectors `range`, of groups that fill vectors. A group's input is staged
// first: read in place, channel by channel, each column would need a register for its address, and pixels
// 4 KB apart would share an L1 set (together a factor of 1.5).
template <class T, int kS, int kStride>
void run_strip(const Conv2dProblem& p, const Conv2dPointers& at, int64_t n, Range lines, Range range,
               int64_t pixels, float* staged) {
  const ChannelVectors vectors{p.K};
  const int64_t in_group = p.C / p.groups, out_group = p.K / p.groups;
  const int64_t line_floats = (in_group + kWidth - 1) / kWidth * pixels * kWidth;
  const int64_t h0 = lines.begin * p.stride_h - p.pad_h;
  const int64_t input_lines = (lines.end - lines.begin - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1;
  int64_t staged_from = -1;
  for (int64_t i = range.begin; i < range.end; ++i) {
    const int64_t k = vectors.first(i), from = k / out_group * in_group;
    if (from != staged_from)
      for (int64_t l = 0; l < input_lines; ++l)
        if (h0 + l >= 0 && h0 + l < p.H)
          stage_line(p, static_cast<const T*>(at.x) + (n * p.H + h0 + l) * p.W * p.x_stride + from, -p.pad_w,
                     pixels, in_group, staged + l * line_floats);
    staged_from = from;
    for (int64_t line = lines.begin; line < lines.end; ++line)
      for (int64_t q = 0; q < p.Q; q += kPixels) {
        const float* weight = static_cast<const float*>(at.weight) + i * vector_floats(p);
        Vec acc[kPixels];
        FASTCNN_UNROLL for (int j = 0; j < kPixels; ++j) acc[j] = zero();
        for (int64_t r = 0; r < p.R; ++r) {
          const int64_t l = (line - lines.begin) * p.stride_h + r * p.dilation_h;
          if (h0 + l < 0 || h0 + l >= p.H) {
            weight += in_group * p.S * kWidth;
            continue;
          }
          const float* block = staged + l * line_floats + q * p.stride_w * kWidth;
          for (int64_t c = 0; c < in_group; c += kWidth, block += pixels * kWidth) {
            const int64_t end = min_of<int64_t>(kWidth, in_group - c);
            for (int64_t d = 0; d < end; ++d, weight += p.S * kWidth)
              add_line<kS, kStride>(
                  p, weight, [&](int64_t j) { return broadcast(block[j * kWidth + d]); }, acc);
          }
        }
        finish<T>(p, at, (n * p.P + line) * p.Q + q, k, kWidth, p.Q - q, acc);
      }
  }
}

template <class T, int kS, int kStride>
void run_staged(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
  threads = threads_for_conv(p, threads);
  // Staged pixels of a line: what full tiles of outputs read.
  const int64_t pixels = ((p.Q + kPixels - 1) / kPixels - 1) * kPixels * p.stride_w + columns_of(p);
  const int64_t line_bytes = (p.C / p.groups + kWidth - 1) / kWidth * kWidth * pixels * 4;
  // A task is a strip of lines, whose input stays in L1 beside a vector's weights, by a range of vectors.
  constexpr int64_t kStripBytes = 24 << 10;
  const int64_t extent = (p.R - 1) * p.dilation_h + 1;
  const int64_t fitting = max_of<int64_t>(4, (kStripBytes / line_bytes - extent) / p.stride_h + 1);
  const int64_t strips = (p.P + fitting - 1) / fitting, vectors = ChannelVectors{p.K}.count();
  const int64_t cuts = min_of(vectors, (4 * threads + p.N * strips - 1) / (p.N * strips));
  parallel_for(threads, p.N * strips * cuts, [&](int64_t task, int) {
    const Range lines = part_of(p.P, strips, task / cuts % strips);
    const int64_t input_lines = (lines.end - lines.begin - 1) * p.stride_h + extent;
    float* staged = static_cast<float*>(scratch(Scratch::task, input_lines * line_bytes));
    run_strip<T, kS, kStride>(p, at, task / cuts / strips, lines, part_of(vectors, cuts, task % cuts), pixels,
                              staged);
  });
}

template <class T, Spread kSpread, int kS, int kStride>
void run_lines(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
  if constexpr (kSpread == Spread::broadcast)
    run_staged<T, kS, kStride>(p, at, threads);
  else
    run_in_place<T, kSpread == Spread::same, kS, kStride>(p, at, threads);
}

template <class T, Spread kSpread>
void run_type(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
  if (p.S == 3 && p.dilation_w == 1 && p.stride_w == 1) return run_lines<T, kSpread, 3, 1>(p, at, threads);
  if (p.S == 3 && p.dilation_w == 1 && p.stride_w == 2) return run_lines<T, kSpread, 3, 2>(p, at, threads);
  if constexpr (kSpread == Spread::same) {
    if (p.S == 5 && p.dilation_w == 1 && p.stride_w == 1) return run_lines<T, kSpread, 5, 1>(p, at, threads);
    if (p.S == 5 && p.dilation_w == 1 && p.stride_w == 2) return run_lines<T, kSpread, 5, 2>(p, at, threads);
  }
  run_lines<T, kSpread, 0, 0>(p, at, threads);
}

void run(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    switch (spread_of(p)) {
      case Spread::same:
        return run_type<T, Spread::same>(p, at, threads);
      case Spread::broadcast:
        return run_type<T, Spread::broadcast>(p, at, threads);
      case Spread::permute:
        return run_type<T, Spread::permute>(p, at, threads);
    }
  });
}

}  // namespace

extern const Conv2dKernel narrow_groups_conv2d{packed_bytes, pack, run, nullptr};

}  // namespace fastcnn::FASTCNN_ISA
