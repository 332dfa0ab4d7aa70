// Winograd convolution: 3x3 and 5x5 kernels of stride 1, on overlapping tiles of A x A inputs.
//
//   Y = At [ sum_c (G g G^t) * (Bt d B) ] A     for every tile d of M x M outputs, A = M + R - 1
//
// Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015). The sums over channels are A^2
// GEMMs of [tiles][C] by [C][K], which need (A / M)^2 / R^2 of the direct multiplications: F(2,3) 4/9, F(4,3)
// 1/4, F(6,3) 16/81, F(4,5) 4/25.
//
// Two orders of the same work. Where the transformed weights fit the caches, each task takes a block of tiles
// from input to output. Where they do not, all tiles of a large block are transformed first, and then each
// task takes a panel of output channels for all of them, so that every weight is read from memory once.
// Groups share the transforms of their inputs; each has panels of its own.
//
// A max-pool of 2x2 blocks behind the convolution is taken on the way out, since tiles are of even size:
// before the activation, and so only with those that keep order.
//
// Rounding: the transforms add numbers of different size, so the relative error (L2) is larger than a direct
// sum's 1e-7 to 1e-6; conv2d.h has the bounds. A NaN or an infinity in the input reaches all outputs
// of the tiles that contain it (up to M + R - 2 pixels away), infinities as NaN.
#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "ops/conv2d/kernels_cpu.h"
#include "ops/conv2d/shape_cpu.h"
#include "ops/conv2d/winograd_transforms_cpu.h"
#include "ops/pool/pool_window.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

template <class F>
struct Winograd {
  static constexpr int kM = F::kTile, kR = F::kKernel, kA = kM + kR - 1, kPoints = kA * kA;
  static_assert(kM % 2 == 0, "a 2x2 block of a pool would lie in two tiles");

  // Floats from one point of a panel to the next: were it a power of two, the points of a weight that pack()
  // writes one after the other would share one set of each cache.
  static constexpr int64_t kPad = 16;
  static int64_t point_floats(int64_t channels, int64_t width) { return channels * width + kPad; }

  static int64_t packed_bytes(const Conv2dProblem& p) {
    const Panels panels{p.K / p.groups};
    return p.groups * kPoints * (panels.packed_floats(p.C / p.groups) + panels.count() * kPad) * 4;
  }

  // Where a panel begins, in floats.
  static int64_t panel_begin(const Conv2dProblem& p, int64_t group, int64_t panel) {
    const Panels panels{p.K / p.groups};
    const int64_t first_vec = group * panels.vecs() + panels.first_vec(panel);
    return kPoints * (first_vec * kWidth * (p.C / p.groups) + (group * panels.count() + panel) * kPad);
  }

  FASTCNN_INLINE void transform_weight(const Vec* g, int64_t stride, Vec* u) {
    FASTCNN_UNROLL for (int a = 0; a < kA; ++a) {
      u[a] = zero();
      FASTCNN_UNROLL for (int r = 0; r < kR; ++r) if (F::kG[a][r] != 0) u[a] =
          fma(g[r * stride], static_cast<float>(F::kG[a][r]), u[a]);
    }
  }

  // A vector of output channels of one group, of input channels c0 to c1 - 1; channel c goes to
  // out[point * point_stride + (c - c0) * width].
  static void pack_vector(const Conv2dProblem& p, const float* weight, WeightForm form, int64_t group,
                          int64_t vec, int64_t c0, int64_t c1, float* out, int64_t point_stride,
                          int64_t width) {
    constexpr int kTaps = kR * kR;
    const int64_t channels = p.C / p.groups, columns = p.K / p.groups;
    const float* const all = weight;
    weight += group * columns * channels * kTaps;
    for (int64_t begin = c0; begin < c1; begin += kWidth) {
      const int64_t end = min_of(c1, begin + kWidth);
      Vec taps[kWidth * kTaps];
      const int64_t depth = channels * kTaps, first = vec * kWidth;
      if (is_flipped(form))
        for (int64_t c = begin; c < end; ++c)
          for (int tap = 0; tap < kTaps; ++tap)
            taps[(c - begin) * kTaps + tap] = flipped_lanes(p, all, form, group, first, c, tap);
      else if (form == WeightForm::contiguous)
        each_depth(weight, depth, first, columns, begin * kTaps, end * kTaps,
                   [&](int64_t d, Vec lanes) { taps[d - begin * kTaps] = lanes; });
      else
        for (int tap = 0; tap < kTaps; ++tap)
          each_depth(weight + tap * channels, depth, first, columns, begin, end,
                     [&](int64_t c, Vec lanes) { taps[(c - begin) * kTaps + tap] = lanes; });
      for (int64_t c = begin; c < end; ++c, out += width) {
        const Vec* g = taps + (c - begin) * kTaps;
        Vec half[kR][kA];
        FASTCNN_UNROLL for (int s = 0; s < kR; ++s) transform_weight(g + s, kR, half[s]);
        FASTCNN_UNROLL for (int a = 0; a < kA; ++a) {
          Vec u[kA];
          transform_weight(&half[0][a], kA, u);
          FASTCNN_UNROLL for (int b = 0; b < kA; ++b) store(out + (a * kA + b) * point_stride, u[b]);
        }
      }
    }
  }

  // [group][panel][point][c][panel width]
  static void pack(const Conv2dProblem& p, const float* weight, WeightForm form, void* packed, int threads) {
    const Panels panels{p.K / p.groups};
    const int64_t channels = p.C / p.groups;
    constexpr int64_t kChannels = 64;  // of a task
    const int64_t chunks = (channels + kChannels - 1) / kChannels, vecs = p.groups * panels.vecs();
    parallel_for(threads_for_bytes(threads, packed_bytes(p)), vecs * chunks, [&](int64_t task, int) {
      const int64_t vec = task / chunks % panels.vecs(), group = task / chunks / panels.vecs();
      const int64_t panel = panels.of_vec(vec), width = panels.vecs_of(panel) * kWidth;
      const int64_t c0 = task % chunks * kChannels, c1 = min_of(channels, c0 + kChannels);
      float* out = static_cast<float*>(packed) + panel_begin(p, group, panel) + c0 * width +
                   (vec - panels.first_vec(panel)) * kWidth;
      pack_vector(p, weight, form, group, vec, c0, c1, out, point_floats(channels, width), width);
    });
  }

  struct Tiles {
    int64_t down, across;
    explicit Tiles(const Conv2dProblem& p) : down((p.P + kM - 1) / kM), across((p.Q + kM - 1) / kM) {}
    int64_t per_image() const { return down * across; }
  };

  // Channels c0..c1-1 of one tile; v[point * point_stride + c].
  template <class T>
  static void transform_input(const Conv2dProblem& p, const Tiles& tiles, const T* x, int64_t tile,
                              int64_t c0, int64_t c1, const T* zeros, float* v, int64_t point_stride) {
    const int64_t n = tile / tiles.per_image(), within = tile % tiles.per_image();
    const int64_t h0 = within / tiles.across * kM - p.pad_h, w0 = within % tiles.across * kM - p.pad_w;
    const T* source[kA][kA];
    for (int i = 0; i < kA; ++i)
      for (int j = 0; j < kA; ++j) {
        const int64_t h = h0 + i, w = w0 + j;
        const bool inside = h >= 0 && h < p.H && w >= 0 && w < p.W;
        source[i][j] = inside ? x + ((n * p.H + h) * p.W + w) * p.x_stride : zeros;
      }
    transform_tile<kA, kA>(source, c0, c1, v, point_stride, [](const Vec* d, Vec* out) { F::input(d, out); });
  }

  // At m in one dimension, of kWidth columns of one tile.
  FASTCNN_INLINE void transform_columns(const float* m, int64_t point_stride, Vec (&half)[kM][kA]) {
    FASTCNN_UNROLL for (int j = 0; j < kA; ++j) {
      Vec d[kA], y[kM];
      FASTCNN_UNROLL for (int i = 0; i < kA; ++i) d[i] = load(m + (i * kA + j) * point_stride);
      F::output(d, y);
      FASTCNN_UNROLL for (int i = 0; i < kM; ++i) half[i][j] = y[i];
    }
  }

  // As transform_output, and of each 2x2 block only the maximum.
  template <class T>
  static void pool_output(const Conv2dProblem& p, const Tiles& tiles, int64_t tile, const float* m,
                          int64_t point_stride, int columns, const Output& out) {
    const int64_t n = tile / tiles.per_image(), within = tile % tiles.per_image();
    const int64_t p0 = within / tiles.across * (kM / 2), q0 = within % tiles.across * (kM / 2);
    const int height = static_cast<int>(min_of<int64_t>(kM / 2, p.P / 2 - p0));
    const int width = static_cast<int>(min_of<int64_t>(kM / 2, p.Q / 2 - q0));
    for (int k = 0; k < columns; k += kWidth) {
      const int lanes = min_of(kWidth, columns - k);
      Vec half[kM][kA];
      transform_columns(m + k, point_stride, half);
      const Vec bias = out.bias ? load_partial(out.bias + k, lanes) : zero();
      for (int i = 0; i < height; ++i) {
        Vec upper[kM], lower[kM];
        F::output(half[2 * i], upper);
        F::output(half[2 * i + 1], lower);
        T* y = static_cast<T*>(out.at((n * (p.P / 2) + p0 + i) * (p.Q / 2) + q0, k).y);
        for (int j = 0; j < width; ++j, y += p.y_stride) {
          const Vec largest = max_or_nan(max_or_nan(upper[2 * j], upper[2 * j + 1]),
                                         max_or_nan(lower[2 * j], lower[2 * j + 1]));
          store_partial(y, activate(p.activation, largest + bias), lanes);
        }
      }
    }
  }

  // One tile and one panel of output channels; m[point * point_stride + column].
  template <class T>
  static void transform_output(const Conv2dProblem& p, const Tiles& tiles, int64_t tile, const float* m,
                               int64_t point_stride, int columns, const Output& out) {
    const int64_t n = tile / tiles.per_image(), within = tile % tiles.per_image();
    const int64_t p0 = within / tiles.across * kM, q0 = within % tiles.across * kM;
    const int height = static_cast<int>(min_of<int64_t>(kM, p.P - p0));
    const int width = static_cast<int>(min_of<int64_t>(kM, p.Q - q0));
    for (int k = 0; k < columns; k += kWidth) {
      const int lanes = min_of(kWidth, columns - k);
      Vec half[kM][kA];
      transform_columns(m + k, point_stride, half);
      const Vec bias = out.bias ? load_partial(out.bias + k, lanes) : zero();
      for (int i = 0; i < height; ++i) {
        Vec y[kM];
        F::output(half[i], y);
        const Output row = out.at((n * p.P + p0 + i) * p.Q + q0, k);
        const T* residual = static_cast<const T*>(row.residual);
        T* destination = static_cast<T*>(row.y);
        for (int j = 0; j < width; ++j) {
          Vec value = y[j] + bias;
          if (lanes == kWidth) {
            if (residual) value += load(residual + j * p.residual_stride);
            store(destination + j * p.y_stride, activate(p.activation, value));
          } else {
            if (residual) value += load_partial(residual + j * p.residual_stride, lanes);
            store_partial(destination + j * p.y_stride, activate(p.activation, value), lanes);
          }
        }
      }
    }
  }

  // Weights that a task packs on the way, in floats: they stay in L2, beside the block's inputs and products.
  static constexpr int64_t kPackedFloats = 128 << 10;
  static_assert(kPoints * kVecs * kWidth * kWidth <= kPackedFloats,
                "at least kWidth channels of a panel fit");
  static int64_t channels_packed(int64_t width) {
    return kPackedFloats / (kPoints * width) / kWidth * kWidth;
  }
  static int64_t scratch_for_weights(const Conv2dPointers& at) {
    return at.form == WeightForm::packed ? 0 : kPackedFloats + kPoints * kPad;
  }

  // One panel of one group, for `count` tiles whose inputs lie in v: products into m, then the output tiles.
  // Weights that are not packed yet are packed into `own`.
  template <class T>
  static void panel_of_tiles(const Conv2dProblem& p, const Tiles& tiles, const Conv2dPointers& at,
                             int64_t panel, int64_t first_tile, int64_t count, const float* v,
                             int64_t v_point_stride, float* m, float* own, const Output& out) {
    const Panels panels{p.K / p.groups};
    const int64_t channels = p.C / p.groups, group = panel / panels.count();
    panel %= panels.count();
    const int vecs = panels.vecs_of(panel), width = vecs * kWidth;
    const int64_t v_stride = padded(p.C), m_stride = padded(width), blocks = (count + kRows - 1) / kRows;
    const bool packed = at.form == WeightForm::packed;
    const int64_t step = packed ? channels : channels_packed(width);
    for (int64_t c0 = 0; c0 < channels; c0 += step) {
      const int64_t c1 = min_of(channels, c0 + step), point_stride = point_floats(c1 - c0, width);
      const float* weights = own;
      if (packed) {
        weights = static_cast<const float*>(at.weight) + panel_begin(p, group, panel);
      } else {
        for (int vec = 0; vec < vecs; ++vec)
          pack_vector(p, static_cast<const float*>(at.weight), at.form, group, panels.first_vec(panel) + vec,
                      c0, c1, own + vec * kWidth, point_stride, width);
      }
      for (int point = 0; point < kPoints; ++point, weights += point_stride) {
        float* sums = m + point * count * m_stride;
        const Output product{DType::float32, Activation::none, nullptr, c0 == 0 ? nullptr : sums, m_stride,
                             sums,           m_stride};
        for (int64_t b = 0; b < blocks; ++b) {
          const Range block = part_of(count, blocks, b);
          const int size = static_cast<int>(block.end - block.begin);
          const float* rows[kRows];
          for (int i = 0; i < size; ++i) rows[i] = v + point * v_point_stride + (block.begin + i) * v_stride;
          gemm_rows(size, vecs, 1, c1 - c0, rows, group * channels + c0, weights, width,
                    product.at(block.begin, 0));
        }
      }
    }
    const Output columns = out.at(0, group * panels.columns + panels.first_column(panel));
    for (int64_t i = 0; i < count; ++i)
      (at.max_pool ? pool_output<T> : transform_output<T>)(p, tiles, first_tile + i, m + i * m_stride,
                                                           count * m_stride, panels.columns_of(panel),
                                                           columns);
  }

  static constexpr int64_t kWeightsInCache = 2 << 20;

  template <class T>
  static void run_type(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
    const Tiles tiles(p);
    const int64_t total = p.N * tiles.per_image(), v_stride = padded(p.C);
    const int64_t panels = p.groups * Panels{p.K / p.groups}.count();
    const T* x = static_cast<const T*>(at.x);
    const Output out{p.dtype, p.activation, at.bias, at.residual, p.residual_stride, at.y, p.y_stride};
    threads = threads_for_conv(p, threads);

    const int64_t zero_bytes = (p.C * sizeof(T) + 63) / 64 * 64;
    constexpr int64_t kSharedBytes = 4 << 20;
    if (packed_bytes(p) <= kWeightsInCache) {
      char* zeros = static_cast<char*>(scratch(Scratch::call, zero_bytes));
      __builtin_memset(zeros, 0, zero_bytes);
      // A block's V and M share L2 with a panel of weights; 24 tiles are enough to read weights from L3.
      const int64_t tile_bytes = kPoints * (v_stride + kPanelFloats) * 4;
      const int64_t fitting =
          min_of<int64_t>(96, max_of<int64_t>(24, (600 << 10) / tile_bytes / kRows * kRows));
      int64_t blocks = (total + fitting - 1) / fitting;
      if (blocks < 4 * threads) blocks = (blocks + threads - 1) / threads * threads;
      parallel_for(threads, blocks, [&](int64_t task, int) {
        const Range block = part_of(total, blocks, task);
        const int64_t count = block.end - block.begin;
        if (count == 0) return;
        const int64_t point_stride = count * v_stride;
        float* v =
            static_cast<float*>(scratch(Scratch::task, kPoints * count * (v_stride + kPanelFloats) * 4));
        float* m = v + kPoints * point_stride;
        for (int64_t i = 0; i < count; ++i)
          transform_input(p, tiles, x, block.begin + i, 0, p.C, reinterpret_cast<const T*>(zeros),
                          v + i * v_stride, point_stride);
        for (int64_t panel = 0; panel < panels; ++panel)
          panel_of_tiles<T>(p, tiles, at, panel, block.begin, count, v, point_stride, m, nullptr, out);
      });
      return;
    }

    const int64_t fitting = min_of(total, max_of<int64_t>(48, kSharedBytes / (kPoints * v_stride * 4)));
    const int64_t large_blocks = (total + fitting - 1) / fitting;
    const int64_t most = (total + large_blocks - 1) / large_blocks;
    char* memory = static_cast<char*>(scratch(Scratch::call, zero_bytes + kPoints * most * v_stride * 4));
    __builtin_memset(memory, 0, zero_bytes);
    const T* zeros = reinterpret_cast<const T*>(memory);
    float* v = reinterpret_cast<float*>(memory + zero_bytes);
    for (int64_t b = 0; b < large_blocks; ++b) {
      const Range block = part_of(total, large_blocks, b);
      const int64_t count = block.end - block.begin, point_stride = count * v_stride;
      constexpr int64_t kChannels = 128;
      const int64_t chunks = (p.C + kChannels - 1) / kChannels;
      parallel_for(threads, count * chunks, [&](int64_t task, int) {
        const int64_t tile = task / chunks, c = task % chunks * kChannels;
        transform_input(p, tiles, x, block.begin + tile, c, min_of(p.C, c + kChannels), zeros,
                        v + tile * v_stride, point_stride);
      });
      const int64_t parts = max_of<int64_t>((count + 95) / 96,
                                            min_of<int64_t>(count / 12, (2 * threads + panels - 1) / panels));
      const int64_t tile_blocks = max_of<int64_t>(1, parts);
      parallel_for(threads, tile_blocks * panels, [&](int64_t task, int) {
        const Range part = part_of(count, tile_blocks, task % tile_blocks);
        const int64_t size = part.end - part.begin;
        const int64_t products = kPoints * size * kPanelFloats;
        float* m = static_cast<float*>(scratch(Scratch::task, (products + scratch_for_weights(at)) * 4));
        panel_of_tiles<T>(p, tiles, at, task / tile_blocks, block.begin + part.begin, size,
                          v + part.begin * v_stride, point_stride, m, m + products, out);
      });
    }
  }

  // Each block of tiles packs the weights again: beyond so many tiles, packing all of them once is cheaper.
  static bool takes_unpacked(const Conv2dProblem& p) {
    return packed_bytes(p) > kWeightsInCache && p.N * Tiles(p).per_image() <= 200;
  }

  static void run(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
    with_dtype(p.dtype, [&](auto type) { run_type<decltype(type)>(p, at, threads); });
  }
};

template <class F>
constexpr Conv2dKernel kernel() {
  return {Winograd<F>::packed_bytes, Winograd<F>::pack, Winograd<F>::run, Winograd<F>::takes_unpacked};
}

}  // namespace

extern const Conv2dKernel winograd_f2_conv2d = kernel<F2x3>();
extern const Conv2dKernel winograd_f4_conv2d = kernel<F4x3>();
extern const Conv2dKernel winograd_f6_conv2d = kernel<F6x3>();
extern const Conv2dKernel winograd5x5_conv2d = kernel<F4x5>();

}  // namespace fastcnn::FASTCNN_ISA
