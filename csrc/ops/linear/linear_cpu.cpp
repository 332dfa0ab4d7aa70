// Linear as dot products: both operands run along D, so the weights are read where PyTorch keeps them. A tile
// is kColumns rows of weights by up to kTileRows rows of x; lanes lie along D and are summed at its end.
//
// Up to kTileRows rows of x, memory is all that counts: a task reads its weights as kColumns long streams
// side by side. (Jumping to other rows every few KB halves the bandwidth: the processor's prefetchers start
// anew.) With more rows, blocks of depth keep x in L2 and the rows of a tile in L1, and each tile prefetches
// its share of the weights that come next.
#include "ops/linear/linear_cpu.h"

#include "cpu/caches.h"
#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

constexpr int kColumns = 4;
constexpr int kTileRows = kWidth == 16  ? 6
                          : kWidth == 8 ? 3
                                        : 2;        // 24 accumulators in 32 registers, 12, 8 in 16
constexpr int64_t kLanes = kWidth * kStep;          // depths an instruction takes
constexpr int64_t kDepth = 2048 / sizeof(Element);  // of a block; more runs into L1's 8 ways
constexpr int64_t kPanel = 64;                      // rows of weights a task reads a block of

typedef float Quad __attribute__((vector_size(16)));

// What one instruction multiplies: kLanes elements, the first `count` of them from memory, the rest 0.
template <class W>
FASTCNN_INLINE Vec operand(const W* p, int count, const float*) {
  return count == kLanes ? load(p) : load_partial(p, count);
}
#if defined(__AVX512BF16__)
FASTCNN_INLINE IntVec operand(const BFloat16* p, int count, const BFloat16*) {
  IntVec pairs = {};
  if (count == kLanes)
    __builtin_memcpy(&pairs, p, sizeof(pairs));
  else
    __builtin_memcpy(&pairs, p, count * sizeof(*p));
  return pairs;
}
FASTCNN_INLINE Vec multiply_add(IntVec a, IntVec b, Vec c) { return dot_pairs(a, b, c); }
#else
FASTCNN_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
#endif

// sums[j * stride + i] += x's row j times weight row i, over `depth`. x: [depth / kLanes][RN][kLanes], zeros
// beyond the depth. Meanwhile each row of weights is prefetched, from `ahead` elements on, at `pace` elements
// a step.
template <int RN, class W>
static __attribute__((noinline)) void dot_tile(const W* const* weight, const Element* x, int64_t depth,
                                               int64_t ahead, int64_t pace, float* sums, int64_t stride) {
  Vec acc[RN][kColumns];
  FASTCNN_UNROLL for (int j = 0; j < RN; ++j) FASTCNN_UNROLL for (int i = 0; i < kColumns; ++i) acc[j][i] =
      zero();
  const W *w0 = weight[0], *w1 = weight[1], *w2 = weight[2], *w3 = weight[3];
  auto step = [&](int64_t d, int count) __attribute__((always_inline)) {
    prefetch(w0 + ahead);
    prefetch(w1 + ahead);
    prefetch(w2 + ahead);
    prefetch(w3 + ahead);
    ahead += pace;
    const auto a0 = operand(w0 + d, count, x), a1 = operand(w1 + d, count, x), a2 = operand(w2 + d, count, x),
               a3 = operand(w3 + d, count, x);
    FASTCNN_UNROLL for (int j = 0; j < RN; ++j) {
      const auto b = operand(x + j * kLanes, kLanes, x);
      acc[j][0] = multiply_add(a0, b, acc[j][0]);
      acc[j][1] = multiply_add(a1, b, acc[j][1]);
      acc[j][2] = multiply_add(a2, b, acc[j][2]);
      acc[j][3] = multiply_add(a3, b, acc[j][3]);
    }
    x += RN * kLanes;
  };
  int64_t d = 0;
  for (; d + kLanes <= depth; d += kLanes) step(d, kLanes);
  if (d < depth) step(d, static_cast<int>(depth - d));
  FASTCNN_UNROLL for (int j = 0; j < RN; ++j) {
    const Vec sum = sum4(acc[j][0], acc[j][1], acc[j][2], acc[j][3]);
    Quad total, quad;
    __builtin_memcpy(&total, sums + j * stride, sizeof(Quad));
    __builtin_memcpy(&quad, &sum, sizeof(Quad));
    total += quad;
    __builtin_memcpy(sums + j * stride, &total, sizeof(Quad));
  }
}

template <class W, int RN = kTileRows>
static inline void dot_rows(int64_t rows, const W* const* weight, const Element* x, int64_t depth,
                            int64_t ahead, int64_t pace, float* sums, int64_t stride) {
  if constexpr (RN > 1)
    if (rows < RN) return dot_rows<W, RN - 1>(rows, weight, x, depth, ahead, pace, sums, stride);
  dot_tile<RN>(weight, x, depth, ahead, pace, sums, stride);
}

// Rows of x as dot_tile reads them: blocks of depth, in each one group of nearly equal size after the other.
struct PackedRows {
  int64_t rows, D;

  int64_t groups() const { return (rows + kTileRows - 1) / kTileRows; }
  Range group(int64_t i) const { return part_of(rows, groups(), i); }
  int64_t depth() const { return (D + kLanes - 1) / kLanes * kLanes; }
  // The same for one row as for many, so that a row's bits do not depend on the others.
  int64_t block() const { return kDepth; }
  int64_t at(int64_t group_begin, int64_t d) const {
    return d * rows + group_begin * min_of(block(), depth() - d);
  }

  template <class T>
  void pack_group(Range group, const T* x, int64_t x_stride, Element* packed) const {
    for (int64_t begin = 0; begin < D; begin += block()) {
      Element* to = packed + at(group.begin, begin);
      for (int64_t d = begin; d < min_of(D, begin + block()); d += kLanes)
        for (int64_t n = group.begin; n < group.end; ++n, to += kLanes) {
          const auto lanes = operand(x + n * x_stride + d, (int)min_of(kLanes, D - d), to);
          __builtin_memcpy(to, &lanes, sizeof(lanes));
        }
    }
  }
};

template <class W>
static void multiply(const LinearProblem& p, const PackedRows& x, const Element* packed, const W* weight,
                     const Output& out, int threads) {
  constexpr int64_t kSize = sizeof(W);
  threads = max_of(1, threads_for_bytes(threads, p.M * p.D * kSize * x.groups()));
  const bool x_fits = x.groups() == 1 || x.rows * x.depth() * (int64_t)sizeof(Element) <= caches().l2 / 2;
  // Rows of under 1 KB are one stream as they are.
  const bool streams = x_fits && x.groups() <= 2 && p.D * kSize >= 1024;
  // Rows of x in a task: a block of them takes a sixth of L2.
  const int64_t share = caches().l2 / 6 / (kDepth * (int64_t)sizeof(Element)) / kTileRows;
  const int64_t row_blocks = (x.groups() + max_of<int64_t>(4, share) - 1) / max_of<int64_t>(4, share);
  int64_t panel = streams ? max_of<int64_t>(16, p.M / (8 * threads)) : kPanel;
  if (row_blocks * p.M < 2 * threads * panel) panel = p.M / (2 * threads);  // too few tasks to go round
  panel = max_of<int64_t>(1, (panel + kColumns - 1) / kColumns) * kColumns;
  const int64_t panels = (p.M + panel - 1) / panel;

  parallel_for(threads, row_blocks * panels, [&](int64_t task, int) {
    const Range groups = part_of(x.groups(), row_blocks, task / panels);
    const int64_t row = x.group(groups.begin).begin, rows = x.group(groups.end - 1).end - row;
    const int64_t column = task % panels * panel, columns = min_of(panel, p.M - column);
    const int64_t quads = (columns + kColumns - 1) / kColumns, stride = quads * kColumns;
    // A quad's columns, and the next quad's, lie so many columns apart.
    const int64_t across = streams ? quads : 1, next = streams ? 1 : kColumns;
    float* const sums = (float*)scratch(Scratch::task, (rows + 1) * stride * sizeof(float));
    __builtin_memset(sums, 0, rows * stride * sizeof(float));
    const int64_t passes = groups.end - groups.begin, blocks = (p.D + x.block() - 1) / x.block();
    for (int64_t t = 0; t < blocks * quads; ++t) {
      const int64_t q = x_fits ? t / blocks : t % quads, d = (x_fits ? t % blocks : t / quads) * x.block();
      const int64_t depth = min_of(x.block(), p.D - d);
      const W* from[kColumns];
      for (int64_t i = 0; i < kColumns; ++i)
        from[i] = weight + (column + min_of(q * next + i * across, columns - 1)) * p.weight_stride + d;
      const int64_t ahead = x.groups() == 1 ? 512 / kSize
                            : streams       ? depth
                            : q + 1 < quads ? next * p.weight_stride
                                            : depth - q * next * p.weight_stride;
      for (int64_t pass = 0; pass < passes; ++pass) {
        const Range group = x.group(groups.begin + pass);
        dot_rows(group.end - group.begin, from, packed + x.at(group.begin, d), depth,
                 ahead + pass * (depth / passes), kLanes / passes,
                 sums + (group.begin - row) * stride + q * kColumns, stride);
      }
    }
    auto finish = [&](const float* tile, int64_t first, int64_t count) {
      with_dtype(out.dtype, [&](auto type) {
        finish_tile<decltype(type)>(tile, stride, (int)count, (int)columns, out.at(row + first, column));
      });
    };
    if (!streams) return finish(sums, 0, rows);
    float* const line = sums + rows * stride;  // the columns in their order
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t i = 0; i < kColumns; ++i)
        for (int64_t q = 0; q < quads; ++q) line[i * quads + q] = sums[n * stride + q * kColumns + i];
      finish(line, n, 1);
    }
  });
}

}  // namespace

void linear(const LinearProblem& p, const void* x, const void* weight, const float* bias, void* y,
            int threads) {
  const Output out{p.dtype, p.activation, p.has_bias ? bias : nullptr, nullptr, 0, y, p.y_stride};
  auto run = [&](auto type, auto weight_type) {
    // So many rows at a time that the packed copy of x stays small, and the weights are still read seldom.
    const int64_t step =
        max_of<int64_t>(192, (int64_t{4} << 20) / (max_of<int64_t>(p.D, 1) * (int64_t)sizeof(Element)));
    for (int64_t n = 0; n < p.N; n += step) {
      const PackedRows rows{min_of(step, p.N - n), p.D};
      Element* packed = (Element*)scratch(Scratch::call, rows.rows * rows.depth() * sizeof(Element));
      const auto* from = (const decltype(type)*)x + n * p.x_stride;
      parallel_for(threads_for_bytes(threads, rows.rows * p.D), rows.groups(),
                   [&](int64_t i, int) { rows.pack_group(rows.group(i), from, p.x_stride, packed); });
      multiply(p, rows, packed, (const decltype(weight_type)*)weight, out.at(n, 0), threads);
    }
  };
#if defined(__AVX512BF16__)
  run(BFloat16{}, BFloat16{});
#else
  with_dtype(p.dtype, [&](auto type) {
    with_dtype(p.weight_dtype, [&](auto weight_type) { run(type, weight_type); });
  });
#endif
}

}  // namespace fastcnn::FASTCNN_ISA
