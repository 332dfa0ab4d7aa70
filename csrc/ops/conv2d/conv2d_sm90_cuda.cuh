// Implicit GEMM for Hopper (sm_90a): TMA fills a ring in shared memory, wgmma multiplies from it.
//
// A tile is 128 output pixels, a box of tile_n images by tile_h rows by tile_w columns (powers of two), by kN
// output channels. For each tap (r, s) and each 128 bytes of channels, one TMA load brings the box of x
// shifted by the tap: zeros outside the image are the padding, a stride is a step between the box's elements.
// Blocks are persistent: each takes tiles in turn. Warpgroup 0 is the producer (one thread issues every
// load), warpgroups 1 and 2 multiply 64 pixels each; registers move from the producer to them. The epilogue
// works in place in a staging tile: the residual is loaded there while the sum runs, and the result leaves it
// by a TMA store that overlaps with the next tile.
#pragma once

#include "cuda/launch.h"
#include "cuda/numeric.h"
#include "cuda/ptx_sm90.h"
#include "ops/conv2d/conv2d_cuda.h"

namespace fastcnn::cuda {

struct Conv2dSm90Params {
  TensorMap x, weight, residual, y;
  Conv2dProblem problem;
  const void* bias;
  int32_t log_tile_w, log_tile_h;     // of a tile's box; its images follow
  int32_t half_w, half_h, half_n;     // where the second warpgroup's half of the box begins
  int32_t tiles_w, tiles_h, tiles_k;  // how many tiles cover Q, P and K
  int64_t tiles;
  int32_t channel_blocks;  // of 128 bytes, covering C
};

constexpr int kSm90Threads = 384, kSm90Pixels = 128, kSm90Half = 64, kSm90RowBytes = 128;
constexpr int kSm90SharedLimit = 227 * 1024;

// A ring of stages of kStageBytes_, kResidentBytes that
// stay for the whole kernel, the staging tile, barriers.
template <class T, int kN_, int kStageBytes_, int kResidentBytes>
struct Sm90Memory {
  static constexpr int kN = kN_, kStageBytes = kStageBytes_;
  // The staging tile: slices of the widest swizzle span that divides a row; one warpgroup's slices together.
  static constexpr int kRow = kN * static_cast<int>(sizeof(T));
  static constexpr int kSpan = kRow % 128 == 0 ? 128 : kRow % 64 == 0 ? 64 : 32;
  static constexpr int kSlices = kRow / kSpan, kSliceBytes = kSm90Half * kSpan,
                       kHalfBytes = kSlices * kSliceBytes;
  // 1024: the base is rounded up to the swizzle's period. 256: barriers.
  static constexpr int kFixedBytes = 1024 + kResidentBytes + 2 * kHalfBytes + 256;
  static constexpr int kFit = (kSm90SharedLimit - kFixedBytes) / kStageBytes;
  static constexpr int kStages = kFit < 6 ? kFit : 6;
  static constexpr int kSharedBytes = kFixedBytes + kStages * kStageBytes;
  static_assert(kN % 16 == 0 && kN <= 256 && kStages >= 2 && kRow % 32 == 0);
  static_assert(kHalfBytes % 1024 == 0 && kStageBytes % 1024 == 0 && kResidentBytes % 1024 == 0);
};

constexpr int kSm90BytesA = kSm90Pixels * kSm90RowBytes;
template <class T, int kN>
struct Sm90Tile : Sm90Memory<T, kN, kSm90BytesA + kN * kSm90RowBytes, 0> {};

// Where a tile lies in the output.
struct Sm90Position {
  int n, p, q, k;
};
__device__ __forceinline__ Sm90Position tile_position(const Conv2dSm90Params& params, int64_t tile, int kN) {
  // Output channels first: tiles that run at the same time share their boxes of x in L2.
  const int k = static_cast<int>(divide(tile, params.tiles_k)) * kN;
  const int q = static_cast<int>(divide(tile, params.tiles_w)) << params.log_tile_w;
  const int p = static_cast<int>(divide(tile, params.tiles_h)) << params.log_tile_h;
  const int images = kSm90Pixels >> (params.log_tile_w + params.log_tile_h);
  return {static_cast<int>(tile) * images, p, q, k};
}

// Byte offset within a slice of the staging tile.
template <int kSpan>
__device__ __forceinline__ uint32_t slice_offset(int row, int byte) {
  constexpr uint32_t kMask = kSpan / 16 - 1;
  const uint32_t offset = row * kSpan + byte;
  return offset ^ (((offset >> 7) & kMask) << 4);
}

// The next stage of the ring of tiles in flight; the phase changes each time round.
template <int kStages>
struct Sm90Slot {
  int stage = 0, phase = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// A consumer warpgroup's half of the staging tile: the
// residual comes in there, the result goes out from there.
template <class T, class Tile>
struct Sm90Staging {
  const Conv2dSm90Params& params;
  int half, thread;      // which warpgroup, and the thread in it
  uint32_t own, loaded;  // the half, and the barrier of its residual
  char* own_memory;      // the half as a pointer
  int residual_phase = 0;
  int n = 0, p = 0, q = 0, k = 0;  // where the half lies in the output

  __device__ __forceinline__ Sm90Staging(const Conv2dSm90Params& params, char* shared, uint32_t staging,
                                         uint32_t residual_full)
      : params(params),
        half(threadIdx.x / 128 - 1),
        thread(threadIdx.x % 128),
        own(staging + half * Tile::kHalfBytes),
        loaded(residual_full + 8 * half),
        own_memory(shared + (own - shared_address(shared))) {}

  __device__ __forceinline__ void begin(const Sm90Position& at) {
    n = at.n + half * params.half_n;
    p = at.p + half * params.half_h;
    q = at.q + half * params.half_w;
    k = at.k;
    if (thread == 0) {
      tma_store_wait_read();  // the last tile has left the staging tile
      if (params.problem.has_residual) {
        mbarrier_arrive_expect_tx(loaded, Tile::kHalfBytes);
        for (int i = 0; i < Tile::kSlices; i++)
          tma_load_4d(own + i * Tile::kSliceBytes, &params.residual, loaded,
                      k + i * (Tile::kSpan / static_cast<int>(sizeof(T))), q, p, n);
      }
    }
  }

  // Adds bias and residual, applies the activation and stores the half.
  __device__ __forceinline__ void finish(const float (&sum)[Tile::kN / 2]) {
    const int lane = thread % 32, warp = thread / 32;
    const bool has_residual = params.problem.has_residual;
    if (has_residual) {
      mbarrier_wait(loaded, residual_phase);
      residual_phase ^= 1;
    } else {
      named_barrier(1 + half, 128);  // thread 0 has seen the staging tile free
    }
    const T* bias = static_cast<const T*>(params.bias);
    const float least = params.problem.activation == Activation::relu ? 0.0f : -INFINITY;
#pragma unroll
    for (int j = 0; j < Tile::kN / 8; j++) {
      const int column = j * 8 + lane % 4 * 2, channel = k + column;
      // K is a multiple of 16 bytes: pairs are whole.
      float bias0 = 0.0f, bias1 = 0.0f;
      if (bias != nullptr && channel < params.problem.K) {
        const Pair<T> both = *reinterpret_cast<const Pair<T>*>(bias + channel);
        bias0 = to_float(both.first);
        bias1 = to_float(both.second);
      }
      constexpr int kPerSlice = Tile::kSpan / static_cast<int>(sizeof(T));
      char* slice = own_memory + column / kPerSlice * Tile::kSliceBytes;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = warp * 16 + lane / 4 + 8 * h;
        Pair<T>* pair = reinterpret_cast<Pair<T>*>(
            slice + slice_offset<Tile::kSpan>(row, column % kPerSlice * static_cast<int>(sizeof(T))));
        float y0 = sum[4 * j + 2 * h] + bias0, y1 = sum[4 * j + 2 * h + 1] + bias1;
        if (has_residual) {
          const Pair<T> r = *pair;
          y0 += to_float(r.first);
          y1 += to_float(r.second);
        }
        // NaN stays: it is not below anything.
        *pair = Pair<T>{from_float<T>(y0 < least ? least : y0), from_float<T>(y1 < least ? least : y1)};
      }
    }
    fence_proxy_async();
    named_barrier(1 + half, 128);
    if (thread == 0) {
      for (int i = 0; i < Tile::kSlices; i++)
        tma_store_4d(own + i * Tile::kSliceBytes, &params.y,
                     k + i * (Tile::kSpan / static_cast<int>(sizeof(T))), q, p, n);
      tma_store_commit();
    }
  }

  // Shared memory must outlive the last store's reads.
  __device__ __forceinline__ void end() {
    if (thread == 0) tma_store_wait_read();
  }
};

template <class T, int kN>
__global__ void __launch_bounds__(kSm90Threads, 1)
    conv2d_sm90_kernel(const __grid_constant__ Conv2dSm90Params params) {
  using Tile = Sm90Tile<T, kN>;
  constexpr int kStages = Tile::kStages, kBlockChannels = kSm90RowBytes / sizeof(T);
  constexpr MmaType kType = sizeof(T) == 4         ? MmaType::tf32
                            : __is_same(T, __half) ? MmaType::float16
                                                   : MmaType::bfloat16;
  FASTCNN_SHARED(shared);
  const Conv2dProblem& p = params.problem;
  // Swizzled tiles must start at a multiple of 1024 bytes.
  const uint32_t ring = (shared_address(shared) + 1023) & ~1023u;
  const uint32_t staging = ring + kStages * Tile::kStageBytes;
  const uint32_t full = staging + 2 * Tile::kHalfBytes, empty = full + 8 * kStages,
                 residual_full = empty + 8 * kStages;
  const int warpgroup = threadIdx.x / 128;
  const int taps = static_cast<int>(p.R * p.S), steps = taps * params.channel_blocks,
            S = static_cast<int>(p.S);

  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; i++) {
      mbarrier_init(full + 8 * i, 1);
      mbarrier_init(empty + 8 * i, 8);  // one arrival a consumer warp: warps finish apart
    }
    mbarrier_init(residual_full, 1);
    mbarrier_init(residual_full + 8, 1);
    fence_mbarrier_init();
  }
  __syncthreads();

  if (warpgroup == 0) {
    release_registers<40>();
    if (threadIdx.x == 0) {
      Sm90Slot<kStages> slot;
      for (int64_t tile = blockIdx.x; tile < params.tiles; tile += gridDim.x) {
        const Sm90Position at = tile_position(params, tile, kN);
        const int h0 = at.p * static_cast<int>(p.stride_h) - static_cast<int>(p.pad_h);
        const int w0 = at.q * static_cast<int>(p.stride_w) - static_cast<int>(p.pad_w);
        for (int tap = 0; tap < taps; tap++) {
          const int h = h0 + tap / S * static_cast<int>(p.dilation_h),
                    w = w0 + tap % S * static_cast<int>(p.dilation_w);
          for (int block = 0; block < params.channel_blocks; block++) {
            mbarrier_wait(empty + 8 * slot.stage, slot.phase ^ 1);
            const uint32_t a = ring + slot.stage * Tile::kStageBytes, c = block * kBlockChannels;
            mbarrier_arrive_expect_tx(full + 8 * slot.stage, Tile::kStageBytes);
            tma_load_4d(a, &params.x, full + 8 * slot.stage, c, w, h, at.n);
            tma_load_3d(a + kSm90BytesA, &params.weight, full + 8 * slot.stage, c, tap, at.k);
            slot.advance();
          }
        }
      }
    }
  } else {
    acquire_registers<232>();
    const int half = warpgroup - 1, lane = threadIdx.x % 32;
    Sm90Staging<T, Tile> output(params, shared, staging, residual_full);
    Sm90Slot<kStages> slot;
    float sum[kN / 2];
    for (int64_t tile = blockIdx.x; tile < params.tiles; tile += gridDim.x) {
      output.begin(tile_position(params, tile, kN));
      int previous = 0;
      for (int step = 0; step < steps; step++) {
        mbarrier_wait(full + 8 * slot.stage, slot.phase);
        const uint32_t a = ring + slot.stage * Tile::kStageBytes;
        const uint64_t descriptor_a = wgmma_descriptor(a + half * kSm90Half * kSm90RowBytes);
        const uint64_t descriptor_b = wgmma_descriptor(a + kSm90BytesA);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; i++)
          wgmma<kN, kType>(sum, descriptor_a + i * kWgmmaDepthStep, descriptor_b + i * kWgmmaDepthStep,
                           step + i != 0);
        wgmma_commit();
        // One group stays in flight; the stage before it is free.
        wgmma_wait<1>();
        if (step > 0 && lane == 0) mbarrier_arrive(empty + 8 * previous);
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

template <class T, int kN>
Status launch_sm90(const Conv2dSm90Params& params, int blocks, void* stream) {
  return launch("conv2d_sm90", conv2d_sm90_kernel<T, kN>, dim3(static_cast<unsigned>(blocks)),
                dim3(kSm90Threads), Sm90Tile<T, kN>::kSharedBytes, stream, params);
}

// The widths of tile that are compiled.
#define FASTCNN_SM90_WIDTHS_16BIT(X) \
  X(32) X(48) X(64) X(96) X(112) X(128) X(144) X(160) X(192) X(208) X(224) X(256)
#define FASTCNN_SM90_WIDTHS_32BIT(X) X(32) X(64) X(96) X(128) X(192)

Status run_sm90_float32(const Conv2dPlan& plan, const Conv2dSm90Params& params, int blocks, void* stream);
Status run_sm90_float16(const Conv2dPlan& plan, const Conv2dSm90Params& params, int blocks, void* stream);
Status run_sm90_bfloat16(const Conv2dPlan& plan, const Conv2dSm90Params& params, int blocks, void* stream);

}  // namespace fastcnn::cuda
