// y[pixel, k] = sum over taps and j of x[pixel + tap, c(k) + j] weight[k, tap, j], for groups of 1, 2, 4 or 8
// channels in and as many out, so that a 16-byte vector of outputs needs the vector of inputs at the same place
// and no other.
//
// A tensor core would multiply by zeros: a tile of 32 output channels has 32 / kGroup of its products. Here each
// product is one that the sum has, and what bounds the kernel is memory. A thread computes kGroupedPixels
// neighbours in a row by one vector of channels. A block's weights wait in shared memory, tap by tap, as vectors
// over the output channels; neighbouring threads read neighbouring vectors of x, and what taps read again comes from
// L1. Blocks are persistent, so that their weights are brought once.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/numeric.h"
#include "ops/conv2d/conv2d_grouped_cuda.h"
#include "ops/conv2d/epilogue_cuda.cuh"

namespace fastcnn::cuda {

namespace {

constexpr int kThreads = 256, kMostSharedBytes = 48 * 1024;

struct GroupedParams {
  Conv2dProblem problem;
  const void *x, *weight;
  Epilogue epilogue;
  int32_t vectors;  // of channels that a block computes; they are the threads' x
  int64_t strips;   // of kGroupedPixels neighbours: N P ceil(Q / kGroupedPixels)
};

int64_t group_size(const Conv2dProblem& p) { return p.C / p.groups; }

// A block's vectors: as many as there are, as its threads allow, and as the weights' room in shared memory does.
int block_vectors(const Conv2dProblem& p) {
  const int64_t channels = grouped_channels(p.dtype), bytes = p.R * p.S * group_size(p) * 16;
  int vectors = 1;
  while (vectors < 32 && vectors < ceil_div(p.K, channels) && 2 * vectors * bytes <= kMostSharedBytes)
    vectors *= 2;
  return vectors;
}

template <class T, int kGroup>
__global__ void __launch_bounds__(kThreads)
    conv2d_grouped_kernel(const __grid_constant__ GroupedParams params) {
  constexpr int kSize = 16 / sizeof(T);
  static_assert(kSize % kGroup == 0);
  using V = Vector<T, kSize>;
  FASTCNN_SHARED(shared);
  const Conv2dProblem& p = params.problem;
  const int R = static_cast<int>(p.R), S = static_cast<int>(p.S), taps = R * S, vectors = params.vectors;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * vectors * kSize;  // of the block's channels
  T* weights = reinterpret_cast<T*>(shared);                                 // [taps][kGroup][vectors kSize]

  const int row = vectors * kSize;
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < row * taps * kGroup; i += kThreads) {
    const int rest = i % (taps * kGroup);  // in memory a channel's taps and inputs lie together
    const int64_t k = first + i / (taps * kGroup);
    weights[rest * row + i / (taps * kGroup)] =
        k < p.K ? static_cast<const T*>(params.weight)[k * taps * kGroup + rest] : from_float<T>(0.0f);
  }
  __syncthreads();

  const int64_t k = first + threadIdx.x * kSize;
  if (k >= p.K) return;
  const int64_t strips_in_row = (p.Q + kGroupedPixels - 1) / kGroupedPixels;
  for (int64_t strip = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; strip < params.strips;
       strip += static_cast<int64_t>(gridDim.y) * blockDim.y) {
    int64_t image = strip;
    const int64_t q0 = divide(image, strips_in_row) * kGroupedPixels, out_row = divide(image, p.P);
    const int64_t h0 = out_row * p.stride_h - p.pad_h, w0 = q0 * p.stride_w - p.pad_w;
    const T* x = static_cast<const T*>(params.x) + image * p.H * p.W * p.x_stride + k;
    V sum[kGroupedPixels] = {};
    for (int r = 0; r < R; r++) {
      const int64_t h = h0 + r * p.dilation_h;
      if (h < 0 || h >= p.H) continue;
      for (int s = 0; s < S; s++) {
        V in[kGroupedPixels];
#pragma unroll
        for (int i = 0; i < kGroupedPixels; i++) {
          const int64_t w = w0 + i * p.stride_w + s * p.dilation_w;
          in[i] = V{};
          if (w >= 0 && w < p.W) in[i] = V::load(x + (h * p.W + w) * p.x_stride);
        }
#pragma unroll
        for (int j = 0; j < kGroup; j++) {
          const V weight = V::load(weights + ((r * S + s) * kGroup + j) * row + threadIdx.x * kSize);
#pragma unroll
          for (int i = 0; i < kGroupedPixels; i++)
#pragma unroll
            for (int e = 0; e < kSize; e++)
              sum[i].value[e] += in[i].value[e / kGroup * kGroup + j] * weight.value[e];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kGroupedPixels; i++)
      if (q0 + i < p.Q)
        params.epilogue.template store<T, kSize>(sum[i], (image * p.P + out_row) * p.Q + q0 + i, k);
  }
}

template <class T, int kGroup>
Status launch_group(const GroupedParams& params, void* stream) {
  const Conv2dProblem& p = params.problem;
  const int64_t channels = 16 / sizeof(T);
  const dim3 block(params.vectors, kThreads / params.vectors);
  int multiprocessors = 0;
  Status status = current_multiprocessors(&multiprocessors);
  if (!status.ok()) return status;
  const int64_t x = ceil_div(p.K, params.vectors * channels), most = ceil_div(8 * multiprocessors, x);
  const int64_t y = std::min({ceil_div(params.strips, block.y), most, int64_t{65535}});
  return launch("conv2d_grouped", conv2d_grouped_kernel<T, kGroup>,
                dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)), block,
                static_cast<size_t>(params.vectors) * 16 * p.R * p.S * kGroup, stream, params);
}

}  // namespace

std::string grouped_reason(const Conv2dProblem& p, const Conv2dPlan& plan, const Device& device) {
  const int64_t channels = grouped_channels(p.dtype), size = p.dtype == DType::float32 ? 4 : 2;
  if (device.major < 8)
    return "it needs compute capability 8.0, the device has " + std::to_string(device.major);
  if (plan.tile_m != kGroupedPixels || plan.tile_n != channels || plan.stages != 1 || plan.splits != 1)
    return "there is no such tile";
  if (p.groups < 2) return "it is for groups";
  if (p.C != p.K) return "its groups have as many output channels as input channels";
  if (channels % group_size(p))
    return "its groups have up to " + std::to_string(channels) + " channels, a power of two";
  for (int64_t extent : {p.K, p.x_stride, p.y_stride, p.residual_stride})
    if (extent * size % 16) return "it needs channels and pixel strides in multiples of 16 bytes";
  if (p.R * p.S * group_size(p) * 16 > kMostSharedBytes) return "its weights do not fit into shared memory";
  if (p.K > INT32_MAX) return "there are too many channels";
  return "";
}

double grouped_cycles(const Conv2dProblem& p, const Device& device) {
  const double size = p.dtype == DType::float32 ? 4 : 2, outputs = static_cast<double>(p.N) * p.P * p.Q * p.K;
  const double products = outputs * p.R * p.S * group_size(p);
  const double memory =
      size * (static_cast<double>(p.N) * p.H * p.W * p.C + outputs * (p.has_residual ? 2 : 1)) / 12;
  // Each tap reads x again, from L1, and a quarter of the weights; 128 bytes a cycle.
  const double cached = size * outputs * p.R * p.S * (1 + 0.25 * group_size(p)) / 128;
  return std::max({memory, cached, products / 128}) / device.multiprocessors + 3000;
}

Status conv2d_grouped(const Conv2dProblem& p, const void* x, const void* weight, const void* bias,
                      const void* residual, void* y, void* stream) {
  GroupedParams params = {};
  params.problem = p;
  params.x = x;
  params.weight = weight;
  params.epilogue = {p.has_bias ? bias : nullptr,
                     p.has_residual ? residual : nullptr,
                     y,
                     p.y_stride,
                     p.residual_stride,
                     p.activation,
                     1};
  params.vectors = block_vectors(p);
  params.strips = p.N * p.P * ceil_div(p.Q, kGroupedPixels);
  return for_dtype(p.dtype, [&](auto element) {
    using T = decltype(element);
    switch (group_size(p)) {
      case 1:
        return launch_group<T, 1>(params, stream);
      case 2:
        return launch_group<T, 2>(params, stream);
      case 4:
        return launch_group<T, 4>(params, stream);
      case 8:
        if constexpr (sizeof(T) == 2) return launch_group<T, 8>(params, stream);
    }
    return make_status(StatusCode::unsupported, "conv2d_grouped: groups of %d channels",
                       static_cast<int>(group_size(p)));
  });
}

}  // namespace fastcnn::cuda
