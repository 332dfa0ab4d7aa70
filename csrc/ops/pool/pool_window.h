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

}  // namespace fastcnn::FASTCNN_ISA
