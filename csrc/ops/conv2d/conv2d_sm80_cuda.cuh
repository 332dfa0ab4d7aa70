// Implicit GEMM on the tensor cores of sm_80 and later.
//
// The convolution is the product of M = N P Q output pixels by K output channels, summed over k = (r, s, c):
//   y[m, n] = sum_k x[pixel(m) + tap(r, s), c] * weight[n, k].
// A block computes a tile of kM pixels by kN channels of one group, in steps of 64 bytes of k. Each step's
// tiles of x and weight are copied asynchronously into a ring of kStages in shared memory (cp.async,
// zero-filled outside the image and past C and K), read as fragments (ldmatrix) and multiplied (mma.sync).
// Since weight[n] lies in the order of k, and a 16-byte chunk of k never straddles two taps when C / groups
// is a multiple of it, k needs no padding.
#pragma once

#include "cuda/launch.h"
#include "cuda/multiply.h"
#include "cuda/pixel_grid.h"
#include "ops/conv2d/conv2d_cuda.h"
#include "ops/conv2d/epilogue_cuda.cuh"

namespace fastcnn::cuda {

struct Conv2dSm80Params {
  Conv2dProblem problem;
  const void *x, *weight;
  Epilogue epilogue;
  float* partial;  // [splits][M][K], where the sum is split; else null
  int32_t splits, steps_per_split;
};

// Warps lie kWarpsM by kWarpsN over the tile.
template <int kM_, int kN_, int kWarpsM_, int kWarpsN_, int kStages_>
struct Sm80Tile {
  static constexpr int kM = kM_, kN = kN_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kStages = kStages_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  static constexpr int kRowBytes = 64, kChunks = kRowBytes / 16;
  static constexpr int kBytesA = kM * kRowBytes, kBytesB = kN * kRowBytes, kStageBytes = kBytesA + kBytesB;
  // The epilogue passes the accumulators of one row of warps at a time through shared memory. 8 floats of
  // padding spread the rows that a warp writes together over the banks.
  static constexpr int kPitch = kN + 8;
  static constexpr int kPipelineBytes = kStages * kStageBytes, kEpilogueBytes = kWarpM * kPitch * 4;
  static constexpr int kSharedBytes = kPipelineBytes > kEpilogueBytes ? kPipelineBytes : kEpilogueBytes;
  static constexpr int kRowsPerPass = kThreads / kChunks;
  static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0);
  static_assert(kM % kRowsPerPass == 0 && kN % kRowsPerPass == 0);
};

using Sm80Tile128x128 = Sm80Tile<128, 128, 2, 4, 4>;
using Sm80Tile128x64 = Sm80Tile<128, 64, 2, 2, 4>;
using Sm80Tile64x64 = Sm80Tile<64, 64, 2, 2, 4>;
using Sm80Tile128x32 = Sm80Tile<128, 32, 4, 1, 4>;

// Byte offset of a 16-byte chunk in a tile of 64-byte rows. Two rows share 128 bytes, all banks; the
// exclusive or makes the eight rows of a matrix that ldmatrix reads fall into different banks.
__device__ __forceinline__ uint32_t swizzle_64(int row, int chunk) {
  return static_cast<uint32_t>(row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4));
}

// Walks k = (r, s, c) for one thread's chunk.
struct TapCursor {
  int k, c, r, s;

  __device__ __forceinline__ void set(int k_, int C, int S) {
    k = k_;
    const int tap = k / C;
    c = k - tap * C;
    r = tap / S;
    s = tap - r * S;
  }
  __device__ __forceinline__ void advance(int by, int C, int S) {
    k += by;
    c += by;
    while (c >= C) {
      c -= C;
      if (++s == S) {
        s = 0;
        ++r;
      }
    }
  }
};

// One block a multiprocessor is enough to ask for: left to itself, the compiler spills the strict kernel's
// fragments to fit more of them.
template <class T, class Tile, bool kGather, bool kStrict>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    conv2d_sm80_kernel(const __grid_constant__ Conv2dSm80Params params) {
  constexpr int kElements = 16 / sizeof(T), kStepElements = Tile::kRowBytes / sizeof(T);
  constexpr int kRowsA = Tile::kM / Tile::kRowsPerPass, kRowsB = Tile::kN / Tile::kRowsPerPass;
  constexpr int kTilesM = Tile::kWarpM / 16, kTilesN = Tile::kWarpN / 8;
  FASTCNN_SHARED(shared);
  const Conv2dProblem& p = params.problem;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int warp_m = warp % Tile::kWarpsM, warp_n = warp / Tile::kWarpsM;
  const int group = blockIdx.z / params.splits, split = blockIdx.z % params.splits;
  const int C = static_cast<int>(p.C / p.groups), K = static_cast<int>(p.K / p.groups),
            S = static_cast<int>(p.S);
  const int H = static_cast<int>(p.H), W = static_cast<int>(p.W), depth = static_cast<int>(p.R) * S * C;
  const int64_t M = p.N * p.P * p.Q, m0 = static_cast<int64_t>(blockIdx.x) * Tile::kM;
  const int n0 = blockIdx.y * Tile::kN;
  const T* x = static_cast<const T*>(params.x) + static_cast<int64_t>(group) * C;
  const T* weight = static_cast<const T*>(params.weight) + static_cast<int64_t>(group) * K * depth;

  // Each thread copies the same chunk of every kRowsPerPass-th row.
  const int chunk = thread % Tile::kChunks, row0 = thread / Tile::kChunks;
  const T* image[kRowsA];
  int h0[kRowsA], w0[kRowsA];
#pragma unroll
  for (int i = 0; i < kRowsA; i++) {
    int64_t n = m0 + row0 + i * Tile::kRowsPerPass;
    const bool inside = n < M;
    if (!inside) n = 0;
    w0[i] = static_cast<int>(divide(n, p.Q) * p.stride_w - p.pad_w);
    h0[i] = static_cast<int>(divide(n, p.P) * p.stride_h - p.pad_h);
    if (!inside) h0[i] = -(1 << 30);  // every tap lies outside: zeros
    image[i] = x + n * H * W * p.x_stride;
  }
  TapCursor tap = {};

  auto load = [&](int stage) {
    const int dh = tap.r * static_cast<int>(p.dilation_h), dw = tap.s * static_cast<int>(p.dilation_w);
    const uint32_t tile_a = static_cast<uint32_t>(stage * Tile::kStageBytes), tile_b = tile_a + Tile::kBytesA;
    if constexpr (!kGather) {
      const bool inside_k = tap.k < depth;
#pragma unroll
      for (int i = 0; i < kRowsA; i++) {
        const int h = h0[i] + dh, w = w0[i] + dw;
        const bool valid = inside_k && h >= 0 && h < H && w >= 0 && w < W;
        const T* source = valid ? image[i] + (static_cast<int64_t>(h) * W + w) * p.x_stride + tap.c : x;
        cp_async_16(shared_address(shared + tile_a + swizzle_64(row0 + i * Tile::kRowsPerPass, chunk)),
                    source, valid ? 16 : 0);
      }
#pragma unroll
      for (int i = 0; i < kRowsB; i++) {
        const int row = row0 + i * Tile::kRowsPerPass;
        const bool valid = inside_k && n0 + row < K;
        const T* source = valid ? weight + static_cast<int64_t>(n0 + row) * depth + tap.k : weight;
        cp_async_16(shared_address(shared + tile_b + swizzle_64(row, chunk)), source, valid ? 16 : 0);
      }
    } else {
      // Element by element: a chunk may straddle taps, and nothing needs to be aligned.
      uint32_t words_a[kRowsA][4] = {}, words_b[kRowsB][4] = {};
      auto put = [](uint32_t (&words)[4], int e, T value) {
        if constexpr (sizeof(T) == 4)
          words[e] = __float_as_uint(value);
        else
          words[e / 2] |= static_cast<uint32_t>(reinterpret_cast<const uint16_t&>(value)) << (e % 2 * 16);
      };
      TapCursor element = tap;
#pragma unroll
      for (int e = 0; e < kElements; e++) {
        if (element.k < depth) {
          const int eh = element.r * static_cast<int>(p.dilation_h),
                    ew = element.s * static_cast<int>(p.dilation_w);
#pragma unroll
          for (int i = 0; i < kRowsA; i++) {
            const int h = h0[i] + eh, w = w0[i] + ew;
            if (h >= 0 && h < H && w >= 0 && w < W)
              put(words_a[i], e, image[i][(static_cast<int64_t>(h) * W + w) * p.x_stride + element.c]);
          }
#pragma unroll
          for (int i = 0; i < kRowsB; i++) {
            const int n = n0 + row0 + i * Tile::kRowsPerPass;
            if (n < K) put(words_b[i], e, weight[static_cast<int64_t>(n) * depth + element.k]);
          }
        }
        element.advance(1, C, S);
      }
#pragma unroll
      for (int i = 0; i < kRowsA; i++)
        store_16(shared + tile_a + swizzle_64(row0 + i * Tile::kRowsPerPass, chunk),
                 uint4{words_a[i][0], words_a[i][1], words_a[i][2], words_a[i][3]});
#pragma unroll
      for (int i = 0; i < kRowsB; i++)
        store_16(shared + tile_b + swizzle_64(row0 + i * Tile::kRowsPerPass, chunk),
                 uint4{words_b[i][0], words_b[i][1], words_b[i][2], words_b[i][3]});
    }
    tap.advance(kStepElements, C, S);
  };

  float sum[kTilesM][kTilesN][4] = {};

  auto multiply = [&](int stage) {
    const uint32_t tile_a = shared_address(shared + stage * Tile::kStageBytes),
                   tile_b = tile_a + Tile::kBytesA;
#pragma unroll
    for (int half = 0; half < 2; half++) {  // 32 bytes of k each, one mma's depth
      multiply_fragments<T, kStrict>(sum, [&](auto& a, auto& b) {
#pragma unroll
        for (int i = 0; i < kTilesM; i++)
          ldmatrix_x4(a[i],
                      tile_a + swizzle_64(warp_m * Tile::kWarpM + i * 16 + lane % 16, half * 2 + lane / 16));
#pragma unroll
        for (int j = 0; j < kTilesN / 2; j++)
          ldmatrix_x4(b[j], tile_b + swizzle_64(warp_n * Tile::kWarpN + j * 16 + lane % 8 + lane / 16 * 8,
                                                half * 2 + lane / 8 % 2));
      });
    }
  };

  const int total_steps = (depth + kStepElements - 1) / kStepElements;
  const int first = split * params.steps_per_split;
  const int left = total_steps - first, steps = left < params.steps_per_split ? left : params.steps_per_split;
  tap.set(first * kStepElements + chunk * kElements, C, S);
#pragma unroll
  for (int stage = 0; stage < Tile::kStages - 1; stage++) {
    if (stage < steps) load(stage);
    cp_async_commit();
  }
  for (int step = 0; step < steps; step++) {
    cp_async_wait<Tile::kStages - 2>();
    // One barrier does both: this step's tiles are visible to
    // all, and all have finished the stage to be refilled.
    __syncthreads();
    if (step + Tile::kStages - 1 < steps) load((step + Tile::kStages - 1) % Tile::kStages);
    cp_async_commit();
    multiply(step % Tile::kStages);
  }
  cp_async_wait<0>();

  // Through shared memory, so that each thread stores 16 bytes of neighbouring channels.
  float* staged = reinterpret_cast<float*>(shared);
#pragma unroll 1
  for (int pass = 0; pass < Tile::kWarpsM; pass++) {
    __syncthreads();
    if (warp_m == pass) {
#pragma unroll
      for (int i = 0; i < kTilesM; i++)
#pragma unroll
        for (int j = 0; j < kTilesN; j++)
#pragma unroll
          for (int h = 0; h < 2; h++) {
            float* to = staged + (i * 16 + lane / 4 + 8 * h) * Tile::kPitch + warp_n * Tile::kWarpN + j * 8 +
                        lane % 4 * 2;
            to[0] = sum[i][j][2 * h];
            to[1] = sum[i][j][2 * h + 1];
          }
    }
    __syncthreads();
    constexpr int kGroups = Tile::kN / kElements;
    for (int i = thread; i < Tile::kWarpM * kGroups; i += Tile::kThreads) {
      const int row = i / kGroups, column = i % kGroups * kElements, n = n0 + column;
      const int64_t m = m0 + pass * Tile::kWarpM + row, k = static_cast<int64_t>(group) * K + n;
      if (m >= M || n >= K) continue;
      const float* from = staged + row * Tile::kPitch + column;
      if (params.partial) {
        float* to = params.partial + (split * M + m) * p.K + k;
        if (params.epilogue.vectorised) {
#pragma unroll
          for (int e = 0; e < kElements; e += 4) store_16(to + e, load_16(from + e));
        } else {
          for (int e = 0; e < kElements && n + e < K; e++) to[e] = from[e];
        }
      } else if (params.epilogue.vectorised) {
        Vector<T, kElements> v;
#pragma unroll
        for (int e = 0; e < kElements; e++) v.value[e] = from[e];
        params.epilogue.store(v, m, k);
      } else {
        for (int e = 0; e < kElements && n + e < K; e++)
          params.epilogue.store(Vector<T, 1>{from[e]}, m, k + e);
      }
    }
  }
}

// Adds the splits' partial sums, always in the same order, and applies the epilogue.
struct Conv2dReduceParams {
  const float* partial;
  Epilogue epilogue;
  int64_t M, K;
  int32_t splits;
};

template <class T, int kSize>
__global__ void __launch_bounds__(256) conv2d_reduce_kernel(const __grid_constant__ Conv2dReduceParams p) {
  const int64_t m = pixel_index(), k = group_index() * kSize;
  if (m >= p.M || k >= p.K) return;
  Vector<T, kSize> sum = {};
  for (int split = 0; split < p.splits; split++) {
    const float* from = p.partial + (split * p.M + m) * p.K + k;
#pragma unroll
    for (int e = 0; e < kSize; e++) sum.value[e] += from[e];
  }
  p.epilogue.store(sum, m, k);
}

template <class T>
Status reduce_partial(const Conv2dReduceParams& params, void* stream) {
  constexpr int kSize = 16 / sizeof(T);
  const bool wide = params.epilogue.vectorised;
  const PixelGrid cut = pixel_grid(params.M, wide ? params.K / kSize : params.K);
  return launch("conv2d_reduce", wide ? conv2d_reduce_kernel<T, kSize> : conv2d_reduce_kernel<T, 1>, cut.grid,
                cut.block, 0, stream, params);
}

template <class T, class Tile, bool kGather, bool kStrict>
Status launch_tile(const Conv2dSm80Params& params, void* stream) {
  const Conv2dProblem& p = params.problem;
  const dim3 grid(static_cast<unsigned>(ceil_div(p.N * p.P * p.Q, Tile::kM)),
                  static_cast<unsigned>(ceil_div(p.K / p.groups, Tile::kN)),
                  static_cast<unsigned>(p.groups * params.splits));
  return launch(kGather ? "conv2d_sm80_gather" : "conv2d_sm80", conv2d_sm80_kernel<T, Tile, kGather, kStrict>,
                grid, dim3(Tile::kThreads), Tile::kSharedBytes, stream, params);
}

// The tiles that are compiled: all for aligned tensors, a small one elsewhere and for strict float32, whose
// fragments take twice the registers.
template <class T>
Status run_sm80(const Conv2dPlan& plan, const Conv2dSm80Params& params, void* stream) {
  const bool strict = sizeof(T) == 4 && plan.float32_mode == Float32Mode::strict;
  if constexpr (sizeof(T) == 4) {
    if (strict)
      return plan.kernel == Conv2dKernel::sm80_gather
                 ? launch_tile<T, Sm80Tile64x64, true, true>(params, stream)
                 : launch_tile<T, Sm80Tile64x64, false, true>(params, stream);
  }
  if (plan.kernel == Conv2dKernel::sm80_gather)
    return launch_tile<T, Sm80Tile64x64, true, false>(params, stream);
  switch (plan.tile_m * 1000 + plan.tile_n) {
    case 128128:
      return launch_tile<T, Sm80Tile128x128, false, false>(params, stream);
    case 128064:
      return launch_tile<T, Sm80Tile128x64, false, false>(params, stream);
    case 64064:
      return launch_tile<T, Sm80Tile64x64, false, false>(params, stream);
    case 128032:
      return launch_tile<T, Sm80Tile128x32, false, false>(params, stream);
  }
  return make_status(StatusCode::unsupported, "conv2d_sm80: there is no tile of %d x %d", plan.tile_m,
                     plan.tile_n);
}

// One file for each element type, so that they compile in parallel.
Status run_sm80_float32(const Conv2dPlan& plan, const Conv2dSm80Params& params, void* stream);
Status run_sm80_float16(const Conv2dPlan& plan, const Conv2dSm80Params& params, void* stream);
Status run_sm80_bfloat16(const Conv2dPlan& plan, const Conv2dSm80Params& params, void* stream);
Status reduce_float32(const Conv2dReduceParams& params, void* stream);
Status reduce_float16(const Conv2dReduceParams& params, void* stream);
Status reduce_bfloat16(const Conv2dReduceParams& params, void* stream);

}  // namespace fastcnn::cuda
