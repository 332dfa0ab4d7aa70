// The windows of a pooling problem, shared with the kernels that pool what they have just computed.
#pragma once

#include "cpu/simd.h"

namespace fastcnn::FASTCNN_ISA {

// The taps [begin, end) of a window of `kernel` taps at start, start + dilation, ... that lie in [0, size).
struct Taps {
  int64_t begin, end;
};
FASTCNN_INLINE Taps taps_inside(int64_t start, int64_t kernel, int64_t dilation, int64_t size) {
  const int64_t begin = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const int64_t end = start < size ? (size - start + dilation - 1) / dilation : 0;
  return {begin, min_of(end, kernel)};
}

// NaN in either operand wins.
FASTCNN_INLINE Vec max_or_nan(Vec value, Vec acc) { return select(is_nan(value), value, max(value, acc)); }

// Reduces a window for U vectors of channels: row(r) is the first tap of row r, a tap is column_step elements
// from the next.
template <PoolMode kMode, int U, class Row>
FASTCNN_INLINE void reduce(Row&& row, int64_t c, int64_t rows, int64_t columns, int64_t column_step,
                           Vec (&acc)[U]) {
#pragma GCC unroll 16
  for (int u = 0; u < U; ++u) acc[u] = broadcast(kMode == PoolMode::max ? -__builtin_inff() : 0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    auto tap = row(r) + c;
    for (int64_t s = 0; s < columns; ++s, tap += column_step) {
#pragma GCC unroll 16
      for (int u = 0; u < U; ++u) {
        const Vec value = load(tap + u * kWidth);
        acc[u] = kMode == PoolMode::max ? max_or_nan(value, acc[u]) : acc[u] + value;
      }
    }
  }
}

// Reduces a window for all C channels; write(c, vector, count) receives the results, count lanes at a time.
template <PoolMode kMode, class Row, class Write>
FASTCNN_INLINE void reduce_channels(Row&& row, int64_t rows, int64_t columns, int64_t column_step, int64_t C,
                                    Write&& write) {
  int64_t c = 0;
  for (; c + 4 * kWidth <= C; c += 4 * kWidth) {
    Vec acc[4];
    reduce<kMode>(row, c, rows, columns, column_step, acc);
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) write(c + u * kWidth, acc[u], kWidth);
  }
  for (; c + kWidth <= C; c += kWidth) {
    Vec acc[1];
    reduce<kMode>(row, c, rows, columns, column_step, acc);
    write(c, acc[0], kWidth);
  }
  if (c < C) {
    const int count = (int)(C - c);
    Vec acc = broadcast(kMode == PoolMode::max ? -__builtin_inff() : 0.0f);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t s = 0; s < columns; ++s) {
        const Vec value = load_partial(row(r) + c + s * column_step, count);
        acc = kMode == PoolMode::max ? max_or_nan(value, acc) : acc + value;
      }
    write(c, acc, count);
  }
}

}  // namespace fastcnn::FASTCNN_ISA
