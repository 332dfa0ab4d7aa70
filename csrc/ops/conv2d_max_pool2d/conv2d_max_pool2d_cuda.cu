// A block keeps its weights in shared memory and goes from tile to tile of pooled pixels. For each,
//   1. the patch of x under the tile's windows goes into shared memory, zeros outside the image;
//   2. implicit GEMM multiplies it by the weight: M the convolution's pixels under the windows, at most 256,
//      N output channels, k = (tap, channel). No tile is unfolded: a warp reads its fragments from the patch;
//   3. the sums and the bias go to shared memory, rounded to the element type;
//   4. each thread takes the maximum of a window for 16 bytes of channels, applies the activation and stores.
// Rounding and the activations it takes keep order, so the result is that of a convolution and a pool one after the
// other, without the convolution's output, four times the pool's, going through memory. Where windows
// overlap, the pixels on a tile's edge are computed for its neighbours too.
//
// One mma is 32 bytes of k deep: four taps of 8 bytes. Lane t of a quad holds two words of k of each row; any
// two will do, if a and b agree. Here they are the 8 bytes of tap 4 i + t: one load a row.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/multiply.h"
#include "cuda/numeric.h"
#include "ops/conv2d_max_pool2d/conv2d_max_pool2d_cuda.h"

namespace fastcnn::cuda {

namespace {

constexpr int kThreads = 256, kPixels = 256;  // 32 pixels of the convolution a warp
constexpr int kTapBytes = 8, kTapsAtOnce = 4;
constexpr int kPadding = 8;  // elements: spreads the rows that a warp stages together over the banks

template <class T>
struct StemTile {
  static constexpr int kN = 128 / sizeof(T);
  static constexpr int kTapElements = kTapBytes / sizeof(T);
  static constexpr int kTilesM = 2, kTilesN = kN / 8;
  static constexpr int kStepBytes = kN * kTapsAtOnce * kTapBytes;  // of weight
  static constexpr int kPitch = kN + kPadding;
};

struct Params {
  Conv2dProblem conv;
  Pool2dProblem pool;
  const void *x, *weight, *bias;
  void* y;
  int32_t tile_p, tile_q;     // pooled pixels of a tile
  int32_t rows, columns;      // the convolution's pixels under it
  int32_t patch_h, patch_w;   // the input's pixels under those
  int32_t tap_groups, parts;  // taps by fours; parts of 8 bytes of a pixel
  int64_t tiles_p, tiles_q, tiles;
  int32_t vectorised;  // 16-byte stores fit y
};

struct alignas(8) Words {
  uint32_t first, second;
};

template <class T, bool kStrict>
__global__ void __launch_bounds__(kThreads, 2)
    conv2d_max_pool2d_kernel(const __grid_constant__ Params params) {
  using Tile = StemTile<T>;
  constexpr int kTilesM = Tile::kTilesM, kTilesN = Tile::kTilesN, kVector = 16 / sizeof(T);
  FASTCNN_SHARED(shared);
  const Conv2dProblem& conv = params.conv;
  const Pool2dProblem& pool = params.pool;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, quad = lane / 4, t = lane % 4;
  const int steps = params.tap_groups * params.parts, pixel_bytes = params.parts * kTapBytes;
  const int pixels = params.rows * params.columns;  // of the convolution
  const int C = static_cast<int>(conv.C), n0 = blockIdx.y * Tile::kN;
  const int K = static_cast<int>(conv.K - n0 < Tile::kN ? conv.K - n0 : Tile::kN);  // of this block

  char* weight = shared;
  int32_t* tap_offset = reinterpret_cast<int32_t*>(weight + steps * Tile::kStepBytes);
  char* patch = reinterpret_cast<char*>(tap_offset + params.tap_groups * kTapsAtOnce);
  T* staged = reinterpret_cast<T*>(patch);  // in the patch's place

  constexpr int kChunks = Tile::kStepBytes / 16;
  for (int i = thread; i < steps * kChunks; i += kThreads) {
    const char* from = static_cast<const char*>(params.weight) +
                       (static_cast<int64_t>(i / kChunks) * gridDim.y + blockIdx.y) * Tile::kStepBytes +
                       i % kChunks * 16;
    cp_async_16(shared_address(weight + i * 16), from, 16);
  }
  cp_async_commit();
  // Where a tap lies in the patch, from the pixel's first; -1 past the last.
  for (int tap = thread; tap < params.tap_groups * kTapsAtOnce; tap += kThreads) {
    const int S = static_cast<int>(conv.S), r = tap / S, s = tap % S;
    const int offset =
        r * static_cast<int>(conv.dilation_h) * params.patch_w + s * static_cast<int>(conv.dilation_w);
    tap_offset[tap] = r < conv.R ? offset * pixel_bytes : -1;
  }
  // The rows of this lane's fragments: pixels as they lie under the tile, row by row.
  int row_offset[kTilesM][2];
#pragma unroll
  for (int i = 0; i < kTilesM; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int pixel = warp * 32 + i * 16 + h * 8 + quad, inside = pixel < pixels ? pixel : 0;
      row_offset[i][h] = (inside / params.columns * static_cast<int>(conv.stride_h) * params.patch_w +
                          inside % params.columns * static_cast<int>(conv.stride_w)) *
                         pixel_bytes;
    }

  for (int64_t tile = blockIdx.x; tile < params.tiles; tile += gridDim.x) {
    int64_t n = tile;
    const int64_t q0 = divide(n, params.tiles_q) * params.tile_q,
                  p0 = divide(n, params.tiles_p) * params.tile_p;
    // The tile's first row and column of the convolution, and of the input: less than 0 in padding.
    const int row0 = static_cast<int>(p0 * pool.stride_h - pool.pad_h),
              column0 = static_cast<int>(q0 * pool.stride_w - pool.pad_w);
    const int64_t h0 = row0 * conv.stride_h - conv.pad_h, w0 = column0 * conv.stride_w - conv.pad_w;

    for (int i = thread; i < params.patch_h * params.patch_w; i += kThreads) {
      const int64_t h = h0 + i / params.patch_w, w = w0 + i % params.patch_w;
      const bool inside = h >= 0 && h < conv.H && w >= 0 && w < conv.W;
      const T* from = static_cast<const T*>(params.x) + ((n * conv.H + h) * conv.W + w) * conv.x_stride;
      for (int part = 0; part < params.parts; part++) {
        uint32_t words[2] = {};
#pragma unroll
        for (int e = 0; e < Tile::kTapElements; e++) {
          const int c = part * Tile::kTapElements + e;
          if (!inside || c >= C) continue;
          const T value = from[c];
          if constexpr (sizeof(T) == 4)
            words[e] = __float_as_uint(value);
          else
            words[e / 2] |= static_cast<uint32_t>(reinterpret_cast<const uint16_t&>(value)) << (e % 2 * 16);
        }
        *reinterpret_cast<Words*>(patch + i * pixel_bytes + part * kTapBytes) = Words{words[0], words[1]};
      }
    }
    cp_async_wait<0>();
    __syncthreads();  // patch, weight and offsets are there

    float sum[kTilesM][kTilesN][4] = {};
    for (int group = 0; group < params.tap_groups; group++) {
      const int tap = tap_offset[group * kTapsAtOnce + t];
      for (int part = 0; part < params.parts; part++)
        multiply_fragments<T, kStrict>(sum, [&](auto& a, auto& b) {
          const char* input = patch + tap + part * kTapBytes;
          const char* channels = weight + (group * params.parts + part) * Tile::kStepBytes + lane * kTapBytes;
#pragma unroll
          for (int i = 0; i < kTilesM; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
              // Past the last tap: a weight of 0 would not do where another pixel is infinite.
              Words words = {};
              if (tap >= 0) words = *reinterpret_cast<const Words*>(input + row_offset[i][h]);
              a[i][h] = words.first;
              a[i][h + 2] = words.second;
            }
#pragma unroll
          for (int j = 0; j < kTilesN; j++) {
            const Words words = *reinterpret_cast<const Words*>(channels + j * 8 * kTapsAtOnce * kTapBytes);
            b[j / 2][j % 2 * 2] = words.first;
            b[j / 2][j % 2 * 2 + 1] = words.second;
          }
        });
    }

    __syncthreads();  // the patch has been read
    const T* bias = static_cast<const T*>(params.bias);
#pragma unroll
    for (int j = 0; j < kTilesN; j++) {
      const int k = j * 8 + t * 2;
      const float bias0 = bias != nullptr && k < K ? to_float(bias[n0 + k]) : 0.0f;
      const float bias1 = bias != nullptr && k + 1 < K ? to_float(bias[n0 + k + 1]) : 0.0f;
#pragma unroll
      for (int i = 0; i < kTilesM; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int pixel = warp * 32 + i * 16 + h * 8 + quad;
          if (pixel < pixels)
            *reinterpret_cast<Pair<T>*>(staged + pixel * Tile::kPitch + k) = {
                from_float<T>(sum[i][j][2 * h] + bias0), from_float<T>(sum[i][j][2 * h + 1] + bias1)};
        }
    }
    __syncthreads();

    constexpr int kVectors = Tile::kN / kVector;
    for (int i = thread; i < params.tile_p * params.tile_q * kVectors; i += kThreads) {
      const int k = i % kVectors * kVector, q = i / kVectors % params.tile_q,
                p = i / kVectors / params.tile_q;
      if (p0 + p >= pool.P || q0 + q >= pool.Q || k >= K) continue;
      Vector<T, kVector> best;
#pragma unroll
      for (int e = 0; e < kVector; e++) best.value[e] = -INFINITY;
      bool any = false;
      for (int r = 0; r < pool.kernel_h; r++) {
        const int row = p * static_cast<int>(pool.stride_h) + r * static_cast<int>(pool.dilation_h);
        if (row0 + row < 0 || row0 + row >= pool.H) continue;
        for (int s = 0; s < pool.kernel_w; s++) {
          const int column = q * static_cast<int>(pool.stride_w) + s * static_cast<int>(pool.dilation_w);
          if (column0 + column < 0 || column0 + column >= pool.W) continue;
          const auto value =
              Vector<T, kVector>::load(staged + (row * params.columns + column) * Tile::kPitch + k);
#pragma unroll
          for (int e = 0; e < kVector; e++) best.value[e] = max_with_nan(value.value[e], best.value[e]);
          any = true;
        }
      }
      if (any) {  // a window of padding alone stays at -infinity
#pragma unroll
        for (int e = 0; e < kVector; e++) best.value[e] = activate(best.value[e], conv.activation);
      }
      T* y = static_cast<T*>(params.y) + ((n * pool.P + p0 + p) * pool.Q + q0 + q) * pool.y_stride + n0 + k;
      if (params.vectorised) {
        best.store(y);
      } else {
#pragma unroll
        for (int e = 0; e < kVector; e++)
          if (k + e < K) y[e] = from_float<T>(best.value[e]);
      }
    }
    __syncthreads();  // before the next patch takes the place
  }
}

int element_size(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

// What a tile covers, and the shared memory that it takes.
int64_t cut(const Conv2dProblem& conv, const Pool2dProblem& pool, int tile_p, int tile_q, Params* params) {
  const int64_t size = element_size(conv.dtype);
  params->tile_p = tile_p;
  params->tile_q = tile_q;
  params->rows =
      static_cast<int32_t>((tile_p - 1) * pool.stride_h + (pool.kernel_h - 1) * pool.dilation_h + 1);
  params->columns =
      static_cast<int32_t>((tile_q - 1) * pool.stride_w + (pool.kernel_w - 1) * pool.dilation_w + 1);
  params->patch_h =
      static_cast<int32_t>((params->rows - 1) * conv.stride_h + (conv.R - 1) * conv.dilation_h + 1);
  params->patch_w =
      static_cast<int32_t>((params->columns - 1) * conv.stride_w + (conv.S - 1) * conv.dilation_w + 1);
  params->tap_groups = static_cast<int32_t>(ceil_div(conv.R * conv.S, kTapsAtOnce));
  params->parts = static_cast<int32_t>(ceil_div(conv.C * size, kTapBytes));
  params->tiles_p = ceil_div(pool.P, tile_p);
  params->tiles_q = ceil_div(pool.Q, tile_q);
  params->tiles = pool.N * params->tiles_p * params->tiles_q;
  const int64_t steps = static_cast<int64_t>(params->tap_groups) * params->parts;
  const int64_t tile_k = conv2d_max_pool2d_tile_k(conv.dtype), step_bytes = tile_k * kTapsAtOnce * kTapBytes;
  const int64_t staged = static_cast<int64_t>(params->rows) * params->columns * (tile_k + kPadding) * size;
  const int64_t patch = static_cast<int64_t>(params->patch_h) * params->patch_w * params->parts * kTapBytes;
  return steps * step_bytes + params->tap_groups * kTapsAtOnce * 4 + std::max(patch, staged);
}

}  // namespace

int conv2d_max_pool2d_tile_k(DType dtype) {
  return dtype == DType::float32 ? StemTile<float>::kN : StemTile<__half>::kN;
}

std::string conv2d_max_pool2d_plan(const Conv2dProblem& conv, const Pool2dProblem& pool, const Device& device,
                                   Float32Mode mode, Conv2dMaxPool2dPlan* plan) {
  const int64_t limit = 1 << 20;
  if (device.major < 8)
    return "it needs compute capability 8.0, the device has " + std::to_string(device.major);
  if (conv.C > 4) return "it takes up to 4 input channels, the input has " + std::to_string(conv.C);
  if (conv.groups != 1) return "it has no groups";
  if (conv.has_residual) return "it adds no residual";
  if (!is_increasing(conv.activation)) return "the activation does not keep order";
  if (pool.mode != PoolMode::max) return "it takes maxima alone";
  for (int64_t extent :
       {conv.R * conv.dilation_h, conv.S * conv.dilation_w, conv.stride_h, conv.stride_w,
        pool.kernel_h * pool.dilation_h, pool.kernel_w * pool.dilation_w, pool.stride_h, pool.stride_w})
    if (extent > 1024) return "a filter, window or stride passes 1024 pixels";
  for (int64_t extent : {conv.H, conv.W, pool.H, pool.W, pool.P, pool.Q, conv.pad_h, conv.pad_w, conv.K})
    if (extent > limit) return "a dimension passes 2^20";
  int64_t best = 0, least = 0, pixels = 0;
  for (int tile_p = 1; tile_p <= pool.P && tile_p <= kPixels; tile_p++)
    for (int tile_q = 1; tile_q <= pool.Q && tile_q <= kPixels; tile_q++) {
      Params params;
      const int64_t shared = cut(conv, pool, tile_p, tile_q, &params);
      if (static_cast<int64_t>(params.rows) * params.columns > kPixels) break;
      least = least == 0 ? shared : std::min(least, shared);
      if (shared > device.shared_memory_per_block) break;
      const int64_t tiles = params.tiles_p * params.tiles_q, computed = params.rows * params.columns;
      // Of as many tiles, those that read less.
      if (best != 0 && (tiles > best || (tiles == best && computed >= pixels))) continue;
      best = tiles;
      pixels = computed;
      *plan = {mode, tile_p, tile_q};
    }
  if (least == 0)
    return "a window covers more than " + std::to_string(kPixels) + " pixels of the convolution";
  if (best == 0)
    return "its least shared memory is " + std::to_string(least) + ", the device's limit is " +
           std::to_string(device.shared_memory_per_block);
  if (best * pixels > 2 * std::max<int64_t>(pool.H * pool.W, kPixels))
    return "its tiles would compute more than twice as many pixels as the convolution has";
  return "";
}

Status conv2d_max_pool2d(const Conv2dProblem& conv, const Pool2dProblem& pool,
                         const Conv2dMaxPool2dPlan& plan, const void* x, const void* weight, const void* bias,
                         void* y, void* stream) {
  if (pool.N * pool.P * pool.Q * conv.K == 0) return Status();
  Params params = {};
  const int64_t shared = cut(conv, pool, plan.tile_p, plan.tile_q, &params);
  params.conv = conv;
  params.pool = pool;
  params.x = x;
  params.weight = weight;
  params.bias = conv.has_bias ? bias : nullptr;
  params.y = y;
  params.vectorised = vectorises(element_size(conv.dtype), {y}, {conv.K, pool.y_stride});
  int multiprocessors = 0;
  const Status status = current_multiprocessors(&multiprocessors);
  if (!status.ok()) return status;
  return for_dtype(conv.dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t blocks_k = ceil_div(conv.K, StemTile<T>::kN);
    // Two blocks a multiprocessor, so that one loads while the other multiplies.
    const int64_t blocks = std::min(params.tiles, std::max<int64_t>(1, 2 * multiprocessors / blocks_k));
    auto kernel = conv2d_max_pool2d_kernel<T, false>;
    if constexpr (sizeof(T) == 4)
      if (plan.float32_mode == Float32Mode::strict) kernel = conv2d_max_pool2d_kernel<T, true>;
    return launch("conv2d_max_pool2d", kernel,
                  dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(blocks_k)), dim3(kThreads),
                  static_cast<size_t>(shared), stream, params);
  });
}

}  // namespace fastcnn::cuda
