// The microkernel under convolution: a tile of kRows output rows by up to kVecs vectors of columns.
//
//   y[i, n] = act(bias[n] + residual[i, n]
//                 + sum_{t < taps} sum_{d < depth} rows[t][i][offset + d] * b[t * depth + d][n])
//
// A row of A is given by one pointer per tap, so that a convolution reads its input in place (implicit GEMM:
// a tap outside the image points to zeros). B is packed into panels [taps * depth][panel width]. Accumulators
// stay in registers to the end; the depth is not cut into cache blocks, because B streams from L2 or L3 as
// fast as the multipliers take it (11 bytes a cycle), and partial sums of 16-bit outputs would need memory of
// their own.
#pragma once

#include "cpu/activation.h"
#include "cpu/simd.h"

namespace fastcnn::FASTCNN_ISA {

// 6 x 4 vectors of accumulators in 32 registers, 6 x 2 in 16; both reach the multipliers' peak. More rows
// would run into the 8 ways of an L1 set where the rows' distance is a multiple of 4 KB (measured at 14 rows:
// -25 %).
constexpr int kRows = 6;
constexpr int kVecs = kWidth == 16 ? 4 : 2;

#define FASTCNN_UNROLL _Pragma("GCC unroll 16")

// What this build multiplies as it is, and how many depths an instruction takes.
#if defined(__AVX512BF16__)
using Element = BFloat16;
constexpr DType kElement = DType::bfloat16;
constexpr int64_t kStep = 2;
#else
using Element = float;
constexpr DType kElement = DType::float32;
constexpr int64_t kStep = 1;
#endif

// Columns 0..columns-1 cut into panels of nearly equal width, at most kVecs vectors. Panel i holds whole
// vectors; columns beyond the last are zeros. In packed memory it begins at first_vec * kWidth * depth.
struct Panels {
  int64_t columns;

  int64_t vecs() const { return (columns + kWidth - 1) / kWidth; }
  int64_t count() const { return (vecs() + kVecs - 1) / kVecs; }
  int64_t first_vec(int64_t i) const { return vecs() * i / count(); }
  int64_t of_vec(int64_t vec) const { return ((vec + 1) * count() - 1) / vecs(); }
  int vecs_of(int64_t i) const { return static_cast<int>(first_vec(i + 1) - first_vec(i)); }
  int64_t first_column(int64_t i) const { return first_vec(i) * kWidth; }
  int columns_of(int64_t i) const {
    return static_cast<int>(min_of(first_column(i + 1), columns) - first_column(i));
  }
  int64_t packed_floats(int64_t depth) const { return vecs() * kWidth * depth; }
};

// Calls f(d, lanes) for d in [begin, end): lane i is column first + i's element d, 0 where there is no such
// column. columns: [count][depth], each column contiguous, as PyTorch keeps weights.
template <class F>
FASTCNN_INLINE void each_depth(const float* columns, int64_t depth, int64_t first, int64_t count,
                               int64_t begin, int64_t end, F&& f) {
  const float* source = columns + first * depth;
  const int present = static_cast<int>(min_of<int64_t>(kWidth, count - first));
  for (int64_t d = begin; d < end; d += kWidth) {
    const int size = static_cast<int>(min_of<int64_t>(kWidth, end - d));
    Vec lanes[kWidth];
    if (present == kWidth && size == kWidth) {
      FASTCNN_UNROLL for (int i = 0; i < kWidth; ++i) lanes[i] = load(source + i * depth + d);
    } else {
      for (int i = 0; i < kWidth; ++i)
        lanes[i] = i < present ? load_partial(source + i * depth + d, size) : zero();
    }
    transpose(lanes);
    if (size == kWidth) {
      FASTCNN_UNROLL for (int j = 0; j < kWidth; ++j) f(d + j, lanes[j]);
    } else {
      for (int j = 0; j < size; ++j) f(d + j, lanes[j]);
    }
  }
}

// What happens to a tile on its way out. Rows lie y_stride elements apart.
struct Output {
  DType dtype;
  Activation activation;
  const float* bias;     // or null
  const void* residual;  // or null
  int64_t residual_stride;
  void* y;
  int64_t y_stride;

  Output at(int64_t row, int64_t column) const {
    const int64_t size = dtype == DType::float32 ? 4 : 2;
    Output o = *this;
    if (bias) o.bias += column;
    if (residual) o.residual = static_cast<const char*>(residual) + (row * residual_stride + column) * size;
    o.y = static_cast<char*>(y) + (row * y_stride + column) * size;
    return o;
  }
};

// Any dtype and activation, from fp32 sums in memory.
template <class T>
static void finish_tile(const float* tile, int64_t tile_stride, int rows, int columns, const Output& out) {
  for (int i = 0; i < rows; ++i) {
    const T* residual = static_cast<const T*>(out.residual) + (out.residual ? i * out.residual_stride : 0);
    T* y = static_cast<T*>(out.y) + i * out.y_stride;
    for (int n = 0; n < columns; n += kWidth) {
      const int lanes = min_of(columns - n, kWidth);
      Vec v = load(tile + i * tile_stride + n);
      if (out.bias) v += load_partial(out.bias + n, lanes);
      if (out.residual) v += load_partial(residual + n, lanes);
      v = activate(out.activation, v);
      if (lanes == kWidth)
        store(y + n, v);
      else
        store_partial(y + n, v, lanes);
    }
  }
}

template <int MR, int NV>
static inline __attribute__((always_inline)) void finish_accumulators(Vec (&acc)[MR][NV], int columns,
                                                                      const Output& out) {
  const bool in_registers =
      out.dtype == kElement && (out.activation == Activation::none || out.activation == Activation::relu);
  if (!in_registers) {
    alignas(64) float tile[MR * NV * kWidth];
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) FASTCNN_UNROLL for (int j = 0; j < NV; ++j)
        store(tile + (i * NV + j) * kWidth, acc[i][j]);
    with_dtype(out.dtype,
               [&](auto type) { finish_tile<decltype(type)>(tile, NV * kWidth, MR, columns, out); });
    return;
  }
  // Only the last vector can be ragged.
  const int tail = columns - (NV - 1) * kWidth;
  if (out.bias) {
    Vec bias[NV];
    FASTCNN_UNROLL for (int j = 0; j < NV; ++j) bias[j] =
        j < NV - 1 ? load(out.bias + j * kWidth) : load_partial(out.bias + j * kWidth, tail);
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) FASTCNN_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] +=
        bias[j];
  }
  if (out.residual) {
    const Element* residual = static_cast<const Element*>(out.residual);
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) FASTCNN_UNROLL for (int j = 0; j < NV; ++j) {
      const Element* p = residual + i * out.residual_stride + j * kWidth;
      acc[i][j] += j < NV - 1 || tail == kWidth ? load(p) : load_partial(p, tail);
    }
  }
  if (out.activation == Activation::relu)
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) FASTCNN_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] =
        max(zero(), acc[i][j]);
  Element* y = static_cast<Element*>(out.y);
  if (tail == kWidth) {
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) FASTCNN_UNROLL for (int j = 0; j < NV; ++j)
        store(y + i * out.y_stride + j * kWidth, acc[i][j]);
  } else {
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) {
      FASTCNN_UNROLL for (int j = 0; j < NV - 1; ++j) store(y + i * out.y_stride + j * kWidth, acc[i][j]);
      store_partial(y + i * out.y_stride + (NV - 1) * kWidth, acc[i][NV - 1], tail);
    }
  }
}

// Depth after which a running sum is set aside and a new one begun: rounding
// errors grow with the length of a sum, and one sum over 4608 products errs
// three times as much as PyTorch's blocked one. Costs 1 % of the time.
constexpr int64_t kRun = 256;

// Adds acc to the sums set aside (or begins them) and clears it.
template <int MR, int NV>
FASTCNN_INLINE void set_aside(Vec (&acc)[MR][NV], float* aside, bool begin) {
  FASTCNN_UNROLL for (int i = 0; i < MR; ++i) FASTCNN_UNROLL for (int j = 0; j < NV; ++j) {
    float* p = aside + (i * NV + j) * kWidth;
    store(p, begin ? acc[i][j] : load(p) + acc[i][j]);
    acc[i][j] = zero();
  }
}

// Adds depth d .. end - 1 to acc. GCC 12 keeps acc in memory (a third of the speed) unless every loop over it
// is unrolled by pragma.
template <int MR, int NV, class W>
FASTCNN_INLINE const W* multiply(const float* const (&a)[MR], int64_t d, int64_t end, const W* b,
                                 Vec (&acc)[MR][NV]) {
  for (; d < end; ++d, b += NV * kWidth) {
    Vec weight[NV];
    FASTCNN_UNROLL for (int j = 0; j < NV; ++j) weight[j] = load(b + j * kWidth);
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) {
      const Vec x = broadcast(a[i][d]);
      FASTCNN_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = fma(x, weight[j], acc[i][j]);
    }
  }
  return b;
}

#if defined(__AVX512BF16__)
// The same for two depths an instruction: d and end are even, B is [depth / 2][panel width][2].
template <int MR, int NV>
FASTCNN_INLINE const BFloat16* multiply(const BFloat16* const (&a)[MR], int64_t d, int64_t end,
                                        const BFloat16* b, Vec (&acc)[MR][NV]) {
  for (; d < end; d += 2, b += NV * kWidth * 2) {
    IntVec weight[NV];
    FASTCNN_UNROLL for (int j = 0; j < NV; ++j)
        __builtin_memcpy(&weight[j], b + j * kWidth * 2, sizeof(IntVec));
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) {
      int32_t pair;
      __builtin_memcpy(&pair, a[i] + d, sizeof(pair));
      const IntVec x = pair - IntVec{};
      FASTCNN_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = dot_pairs(x, weight[j], acc[i][j]);
    }
  }
  return b;
}
#endif

// W is the type of the packed weights, A that of the rows: any and float, or BFloat16 both.
template <int MR, int NV, class W, class A>
static __attribute__((noinline)) void gemm_tile(int64_t taps, int64_t depth, const A* const* rows,
                                                int64_t offset, const W* b, int columns, const Output& out) {
  Vec acc[MR][NV];
  FASTCNN_UNROLL for (int i = 0; i < MR; ++i) FASTCNN_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = zero();
  alignas(64) float aside[MR * NV * kWidth];
  int64_t run = 0;
  bool any_aside = false;
  for (int64_t t = 0; t < taps; ++t, rows += kRows) {
    const A* a[MR];
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) a[i] = rows[i] + offset;
    for (int64_t d = 0; d < depth;) {
      if (run >= kRun) {
        set_aside(acc, aside, !any_aside);
        any_aside = true;
        run = 0;
      }
      const int64_t end = min_of(depth, d + kRun);
      run += end - d;
      b = multiply<MR, NV>(a, d, end, b, acc);
      d = end;
    }
  }
  if (any_aside)
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) FASTCNN_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] +=
        load(aside + (i * NV + j) * kWidth);
  finish_accumulators(acc, columns, out);
}

template <class W, class A, int MR = kRows>
static inline void gemm_rows(int rows, int vecs, int64_t taps, int64_t depth, const A* const* a,
                             int64_t offset, const W* b, int columns, const Output& out) {
  if constexpr (MR > 1)
    if (rows < MR) return gemm_rows<W, A, MR - 1>(rows, vecs, taps, depth, a, offset, b, columns, out);
  if (vecs == 1) return gemm_tile<MR, 1>(taps, depth, a, offset, b, columns, out);
  if constexpr (kVecs > 2) {
    if (vecs == 3) return gemm_tile<MR, 3>(taps, depth, a, offset, b, columns, out);
    if (vecs == 4) return gemm_tile<MR, 4>(taps, depth, a, offset, b, columns, out);
  }
  gemm_tile<MR, 2>(taps, depth, a, offset, b, columns, out);
}

// `count` contiguous elements, widened to fp32.
template <class T>
static void copy_run(const T* x, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(out + i, load(x + i));
  const int tail = static_cast<int>(count - i);
  if (tail) store_partial(out + i, load_partial(x + i, tail), tail);
}

}  // namespace fastcnn::FASTCNN_ISA
