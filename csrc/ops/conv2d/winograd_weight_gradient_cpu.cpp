// The weight's gradient by Winograd, for 3x3 and 5x5 kernels of stride 1: the adjoint of winograd_cpu.cpp,
// step by step.
//
//   forward   Y = At [ sum_c U * V ] A          U = G g Gt, V = Bt d B, for every tile
//   gradient  dg = Gt [ sum over tiles of (A dY At) * V ] G
//
// The sums are A^2 products of [K][tiles] by [tiles][C], which need as many multiplications less than the
// direct gradient as the forward convolution's: F(4,3) 1/4, F(4,5) 4/25. Errors are those of the forward one,
// too.
//
// All tiles of a block are transformed, x and dy; then each task adds the products of one point for a block
// of output and a slice of input channels; after the last block the sums are transformed back. Blocks depend
// on the problem alone: the result has the same bits on any number of threads.
#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "ops/conv2d/outer_products_cpu.h"
#include "ops/conv2d/weight_gradient_cpu.h"
#include "ops/conv2d/winograd_transforms_cpu.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

constexpr int64_t kBlockBytes = 16 << 20;         // of a block's transformed tiles
constexpr int64_t kFilters = 64, kChannels = 64;  // of a task's sums

template <class F>
struct Gradient {
  static constexpr int kM = F::kTile, kR = F::kKernel, kA = kM + kR - 1, kPoints = kA * kA;

  const Conv2dProblem& p;
  const int64_t channels = p.C / p.groups, filters = p.K / p.groups;
  const int64_t down = (p.P + kM - 1) / kM, across = (p.Q + kM - 1) / kM, tiles = p.N * down * across;
  const int64_t x_stride = padded(p.C), dy_stride = padded(p.K);  // of a transformed tile
  const int64_t k_blocks = (filters + kFilters - 1) / kFilters,
                c_slices = (channels + kChannels - 1) / kChannels;

  // One tile of kIn x kIn pixels whose first is (h, w); zeros outside of height x width.
  template <int kIn, class T, class Transform>
  static void transform(const T* image, int64_t h0, int64_t w0, int64_t height, int64_t width, int64_t stride,
                        int64_t count, const T* zeros, float* out, int64_t point_stride, Transform&& f) {
    const T* source[kIn][kIn];
    for (int i = 0; i < kIn; ++i)
      for (int j = 0; j < kIn; ++j) {
        const int64_t h = h0 + i, w = w0 + j;
        const bool inside = h >= 0 && h < height && w >= 0 && w < width;
        source[i][j] = inside ? image + (h * width + w) * stride : zeros;
      }
    transform_tile<kIn, kA>(source, 0, count, out, point_stride, f);
  }

  // Block (k, c) of group g of one point: [filters of the block][columns].
  int64_t block_floats() const { return kFilters * columns(); }
  int64_t columns() const { return min_of<int64_t>((channels + kWidth - 1) / kWidth * kWidth, kChannels); }
  float* block_of(float* sums, int64_t point, int64_t group, int64_t k, int64_t c) const {
    return sums + (((group * k_blocks + k) * c_slices + c) * kPoints + point) * block_floats();
  }
  static Range whole_vectors(int64_t count, int64_t parts, int64_t i) {
    const int64_t vecs = (count + kWidth - 1) / kWidth;
    const Range range = part_of(vecs, parts, i);
    return {range.begin * kWidth, min_of(count, range.end * kWidth)};
  }

  void add(const float* v, const float* g, int64_t count, float* sums, bool begin, int threads) const {
    const int64_t blocks = p.groups * k_blocks * c_slices;
    parallel_for(threads, kPoints * blocks, [&](int64_t task, int) {
      const int64_t point = task % kPoints, block = task / kPoints;
      const int64_t group = block / (k_blocks * c_slices), i = block / c_slices % k_blocks,
                    j = block % c_slices;
      const Range k = part_of(filters, k_blocks, i), c = whole_vectors(channels, c_slices, j);
      const Panels panels{c.end - c.begin};
      float* const to = block_of(sums, point, group, i, j);
      const int64_t rows = (k.end - k.begin + kRows - 1) / kRows;
      // The inputs of some tiles stay in the first-level cache while all rows pass by.
      constexpr int64_t kTiles = 64;
      for (int64_t t = 0; t < count; t += kTiles)
        for (int64_t panel = 0; panel < panels.count(); ++panel)
          for (int64_t row = 0; row < rows; ++row) {
            const Range tile = part_of(k.end - k.begin, rows, row);
            add_rows(
                static_cast<int>(tile.end - tile.begin), panels.vecs_of(panel), int64_t{1},
                min_of(kTiles, count - t),
                v + (point * count + t) * x_stride + group * channels + c.begin + panels.first_column(panel),
                x_stride, int64_t{0},
                g + (point * count + t) * dy_stride + group * filters + k.begin + tile.begin, dy_stride,
                to + tile.begin * columns() + panels.first_column(panel), columns(), begin && t == 0);
          }
    });
  }

  FASTCNN_INLINE void transform_back(const Vec* u, int64_t stride, Vec* g) {
    FASTCNN_UNROLL for (int r = 0; r < kR; ++r) {
      g[r] = zero();
      FASTCNN_UNROLL for (int a = 0; a < kA; ++a) if (F::kG[a][r] != 0) g[r] =
          fma(u[a * stride], static_cast<float>(F::kG[a][r]), g[r]);
    }
  }

  void write(float* sums, float* dw, bool contiguous, int threads) const {
    parallel_for(threads, p.groups * k_blocks * c_slices, [&](int64_t block, int) {
      const int64_t group = block / (k_blocks * c_slices), i = block / c_slices % k_blocks,
                    j = block % c_slices;
      const Range k = part_of(filters, k_blocks, i), c = whole_vectors(channels, c_slices, j);
      const float* from = block_of(sums, 0, group, i, j);
      for (int64_t row = k.begin; row < k.end; ++row)
        for (int64_t d = c.begin; d < c.end; d += kWidth) {
          const float* u = from + (row - k.begin) * columns() + d - c.begin;
          Vec half[kR][kA];
          FASTCNN_UNROLL for (int b = 0; b < kA; ++b) {
            Vec points[kA], g[kR];
            FASTCNN_UNROLL for (int a = 0; a < kA; ++a) points[a] = load(u + (a * kA + b) * block_floats());
            transform_back(points, 1, g);
            FASTCNN_UNROLL for (int r = 0; r < kR; ++r) half[r][b] = g[r];
          }
          const int lanes = static_cast<int>(min_of<int64_t>(kWidth, c.end - d));
          float* const to = dw + (group * filters + row) * kR * kR * channels;
          FASTCNN_UNROLL for (int r = 0; r < kR; ++r) {
            Vec g[kR];
            transform_back(half[r], 1, g);
            for (int s = 0; s < kR; ++s) {
              if (!contiguous) {
                store_partial(to + (r * kR + s) * channels + d, g[s], lanes);
              } else {
                for (int lane = 0; lane < lanes; ++lane) to[(d + lane) * kR * kR + r * kR + s] = g[s][lane];
              }
            }
          }
        }
    });
  }

  template <class T>
  void run(const T* x, const T* dy, float* dw, bool contiguous, int threads) const {
    const int64_t tile_floats = kPoints * (x_stride + dy_stride);
    const int64_t fitting = max_of<int64_t>(64, kBlockBytes / (tile_floats * 4));
    const int64_t blocks = (tiles + fitting - 1) / fitting, most = (tiles + blocks - 1) / blocks;
    const int64_t zero_floats = padded(max_of(p.C, p.K));
    const int64_t sums_floats = p.groups * k_blocks * c_slices * kPoints * block_floats();
    float* const zeros = static_cast<float*>(
        scratch(Scratch::call, (zero_floats + most * tile_floats + sums_floats) * sizeof(float)));
    float *const v = zeros + zero_floats, *const sums = v + most * tile_floats;
    __builtin_memset(zeros, 0, zero_floats * sizeof(float));
    for (int64_t b = 0; b < blocks; ++b) {
      const Range block = part_of(tiles, blocks, b);
      const int64_t count = block.end - block.begin;
      float* const g = v + kPoints * count * x_stride;
      parallel_for(threads, count, [&](int64_t i, int) {
        const int64_t tile = block.begin + i, n = tile / (down * across);
        const int64_t h = tile / across % down * kM, w = tile % across * kM;
        const T* const none = reinterpret_cast<const T*>(zeros);
        transform<kA>(x + n * p.H * p.W * p.x_stride, h - p.pad_h, w - p.pad_w, p.H, p.W, p.x_stride, p.C,
                      none, v + i * x_stride, count * x_stride,
                      [](const Vec* d, Vec* out) { F::input(d, out); });
        transform<kM>(dy + n * p.P * p.Q * p.y_stride, h, w, p.P, p.Q, p.y_stride, p.K, none,
                      g + i * dy_stride, count * dy_stride,
                      [](const Vec* d, Vec* out) { F::output_adjoint(d, out); });
      });
      add(v, g, count, sums, b == 0, threads);
    }
    write(sums, dw, contiguous, threads);
  }
};

}  // namespace

void winograd_weight_gradient(const Conv2dProblem& p, const void* x, const void* dy, float* dw,
                              bool contiguous, int threads) {
  if (p.N * p.P * p.Q == 0) {
    __builtin_memset(dw, 0, p.K * p.R * p.S * (p.C / p.groups) * sizeof(float));
    return;
  }
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    if (p.R == 3)
      Gradient<F4x3>{p}.run(static_cast<const T*>(x), static_cast<const T*>(dy), dw, contiguous, threads);
    else
      Gradient<F4x5>{p}.run(static_cast<const T*>(x), static_cast<const T*>(dy), dw, contiguous, threads);
  });
}

}  // namespace fastcnn::FASTCNN_ISA
