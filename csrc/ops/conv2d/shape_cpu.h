// How a convolution's work is cut into tasks.
#pragma once

#include "cpu/gemm.h"
#include "ops/conv2d/kernels_cpu.h"

namespace fastcnn::FASTCNN_ISA {

// Waking a thread costs microseconds; each should have 10 us of work at 100 GFLOP/s.
FASTCNN_INLINE int threads_for_conv(const Conv2dProblem& p, int threads) {
  const double flops = 2.0 * p.N * p.P * p.Q * p.K * p.R * p.S * (p.C / p.groups);
  const double useful = 1 + flops / 1e6;
  return useful < threads ? static_cast<int>(useful) : threads;
}

FASTCNN_INLINE bool is_flipped(WeightForm form) {
  return form == WeightForm::flipped_contiguous || form == WeightForm::flipped_channels_last;
}

// Where weights that are not packed have the element (k, c, r, s), tap = r * S + s.
FASTCNN_INLINE int64_t weight_index(const Conv2dProblem& p, WeightForm form, int64_t k, int64_t c,
                                    int64_t tap) {
  int64_t channels = p.C / p.groups;
  const int64_t taps = p.R * p.S;
  if (is_flipped(form)) {
    const int64_t columns = p.K / p.groups, row = k / columns * channels + c;
    c = k % columns, k = row, tap = taps - 1 - tap, channels = columns;
  }
  const bool last = form == WeightForm::channels_last || form == WeightForm::flipped_channels_last;
  return k * channels * taps + (last ? tap * channels + c : c * taps + tap);
}

// The element (c, tap) of kWidth output channels of a group, from `column` on, of flipped weights: 0 where
// there is no such channel.
FASTCNN_INLINE Vec flipped_lanes(const Conv2dProblem& p, const float* weight, WeightForm form, int64_t group,
                                 int64_t column, int64_t c, int64_t tap) {
  const int64_t columns = p.K / p.groups;
  const int count = static_cast<int>(min_of<int64_t>(kWidth, columns - column));
  const float* from = weight + weight_index(p, form, group * columns + column, c, tap);
  if (form == WeightForm::flipped_channels_last)
    return count == kWidth ? load(from) : load_partial(from, count);
  Vec lanes = zero();
  for (int i = 0; i < count; ++i) lanes[i] = from[i * p.R * p.S];
  return lanes;
}

struct BlockPlan {
  int64_t row_blocks, panel_blocks;
};

// Cuts `rows` x `panels` into blocks: as many rows as fit a share of L2,
// and at least as many blocks as threads, splitting panels only where rows
// are too few, since each block reads its rows again for its own panels.
FASTCNN_INLINE BlockPlan plan_blocks(int64_t rows, int64_t row_bytes, int64_t panels, int threads) {
  constexpr int64_t kBlockBytes = 256 << 10, kMaxRows = 16 * kRows;
  const int64_t fitting =
      min_of(kMaxRows, max_of<int64_t>(2 * kRows, kBlockBytes / row_bytes / kRows * kRows));
  int64_t row_blocks = (rows + fitting - 1) / fitting;
  int64_t panel_blocks = 1;
  if (row_blocks < 4 * threads) {
    if (rows >= threads * 8 * kRows)
      row_blocks = (row_blocks + threads - 1) / threads * threads;
    else
      panel_blocks = min_of<int64_t>(panels, 2 * threads);
  }
  return {row_blocks, panel_blocks};
}

}  // namespace fastcnn::FASTCNN_ISA
