// Implicit GEMM for Hopper (sm_90a), 3x3, where one block of channels goes in and few come out: C = K = 64.
//
// There a tile's arithmetic is over before its loads, so this kernel loads less than conv2d_sm90_kernel: the
// whole filter stays in shared memory, and for each filter column s one box of x, two rows taller than the
// tile, serves all three taps of that column. The tile is 8 or 16 pixels wide, so that a tap one row lower
// begins a multiple of 1024 bytes later: the swizzle's period, which a matrix descriptor must start at. A
// tile moves 54 or 60 KB into shared memory; nine shifted boxes and filters would be 216 KB.
#pragma once

#include "ops/conv2d/conv2d_sm90_cuda.cuh"

namespace fastcnn::cuda {

constexpr int kSm90ResidentN = 64, kSm90Taps = 9;
constexpr int kSm90FilterBytes = kSm90ResidentN * kSm90RowBytes;  // of one tap
// A tile 16 pixels wide has the larger box: two more rows of 16.
template <class T>
struct Sm90ResidentTile
    : Sm90Memory<T, kSm90ResidentN, (kSm90Pixels + 2 * 16) * kSm90RowBytes, kSm90Taps * kSm90FilterBytes> {};

template <class T>
__global__ void __launch_bounds__(kSm90Threads, 1)
    conv2d_sm90_resident_kernel(const __grid_constant__ Conv2dSm90Params params) {
  using Tile = Sm90ResidentTile<T>;
  constexpr int kStages = Tile::kStages, kN = Tile::kN;
  constexpr MmaType kType = __is_same(T, __half) ? MmaType::float16 : MmaType::bfloat16;
  static_assert(sizeof(T) == 2);
  FASTCNN_SHARED(shared);
  const Conv2dProblem& p = params.problem;
  const uint32_t ring = (shared_address(shared) + 1023) & ~1023u;
  const uint32_t filter = ring + kStages * Tile::kStageBytes;
  const uint32_t staging = filter + kSm90Taps * kSm90FilterBytes;
  const uint32_t full = staging + 2 * Tile::kHalfBytes, empty = full + 8 * kStages,
                 residual_full = empty + 8 * kStages, filter_full = residual_full + 16;
  const int warpgroup = threadIdx.x / 128;
  constexpr int R = 3, S = 3;

  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; i++) {
      mbarrier_init(full + 8 * i, 1);
      mbarrier_init(empty + 8 * i, 8);
    }
    mbarrier_init(residual_full, 1);
    mbarrier_init(residual_full + 8, 1);
    mbarrier_init(filter_full, 1);
    fence_mbarrier_init();
  }
  __syncthreads();

  if (warpgroup == 0) {
    release_registers<40>();
    if (threadIdx.x == 0) {
      mbarrier_arrive_expect_tx(filter_full, R * S * kSm90FilterBytes);
      for (int tap = 0; tap < R * S; tap++)
        tma_load_3d(filter + tap * kSm90FilterBytes, &params.weight, filter_full, 0, tap, 0);
      const uint32_t box_bytes = (kSm90Pixels + ((R - 1) << params.log_tile_w)) * kSm90RowBytes;
      Sm90Slot<kStages> slot;
      for (int64_t tile = blockIdx.x; tile < params.tiles; tile += gridDim.x) {
        const Sm90Position at = tile_position(params, tile, kN);
        const int h = at.p - static_cast<int>(p.pad_h), w = at.q - static_cast<int>(p.pad_w);
        for (int s = 0; s < S; s++) {
          mbarrier_wait(empty + 8 * slot.stage, slot.phase ^ 1);
          mbarrier_arrive_expect_tx(full + 8 * slot.stage, box_bytes);
          tma_load_4d(ring + slot.stage * Tile::kStageBytes, &params.x, full + 8 * slot.stage, 0, w + s, h,
                      at.n);
          slot.advance();
        }
      }
    }
  } else {
    acquire_registers<232>();
    const int half = warpgroup - 1, lane = threadIdx.x % 32;
    Sm90Staging<T, Tile> output(params, shared, staging, residual_full);
    const uint32_t row_bytes = kSm90RowBytes << params.log_tile_w;  // of a row of the tile
    Sm90Slot<kStages> slot;
    float sum[kN / 2];
    mbarrier_wait(filter_full, 0);
    for (int64_t tile = blockIdx.x; tile < params.tiles; tile += gridDim.x) {
      output.begin(tile_position(params, tile, kN));
      int previous = 0;
      for (int s = 0; s < S; s++) {
        mbarrier_wait(full + 8 * slot.stage, slot.phase);
        const uint32_t a = ring + slot.stage * Tile::kStageBytes + half * kSm90Half * kSm90RowBytes;
        wgmma_fence();
#pragma unroll  // a loop would come between products in flight and their registers
        for (int r = 0; r < R; r++) {
          const uint64_t descriptor_a = wgmma_descriptor(a + r * row_bytes);
          const uint64_t descriptor_b = wgmma_descriptor(filter + (r * S + s) * kSm90FilterBytes);
#pragma unroll
          for (int i = 0; i < 4; i++)
            wgmma<kN, kType>(sum, descriptor_a + i * kWgmmaDepthStep, descriptor_b + i * kWgmmaDepthStep,
                             s + r + i != 0);
        }
        wgmma_commit();
        // One group stays in flight; the stage before it is free.
        wgmma_wait<1>();
        if (s > 0 && lane == 0) mbarrier_arrive(empty + 8 * previous);
        previous = slot.stage;
        slot.advance();
      }
      wgmma_wait<0>();
      if (lane == 0) mbarrier_arrive(empty + 8 * previous);
      output.finish(sum);
    }
    output.end();
  }
}

template <class T>
Status launch_sm90_resident(const Conv2dSm90Params& params, int blocks, void* stream) {
  return launch("conv2d_sm90_resident", conv2d_sm90_resident_kernel<T>, dim3(static_cast<unsigned>(blocks)),
                dim3(kSm90Threads), Sm90ResidentTile<T>::kSharedBytes, stream, params);
}

}  // namespace fastcnn::cuda
