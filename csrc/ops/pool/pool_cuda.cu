#include "cuda/launch.h"
#include "cuda/numeric.h"
#include "cuda/pixel_grid.h"
#include "ops/pool/pool_cuda.h"

namespace fastcnn::cuda {

namespace {

struct PoolParams {
  const void* x;
  void* y;
  Pool2dProblem problem;
};

__device__ __forceinline__ int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
__device__ __forceinline__ int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// One thread pools one vector of channels of one output pixel.
template <class T, int kSize>
__global__ void __launch_bounds__(256) pool2d_kernel(const __grid_constant__ PoolParams params) {
  const Pool2dProblem& p = params.problem;
  const int64_t pixel = pixel_index();
  const int64_t c = group_index() * kSize;
  if (pixel >= p.N * p.P * p.Q || c >= p.C) return;
  int64_t n = pixel;
  const int64_t w0 = divide(n, p.Q) * p.stride_w - p.pad_w;
  const int64_t h0 = divide(n, p.P) * p.stride_h - p.pad_h;
  const bool is_max = p.mode == PoolMode::max;
  Vector<T, kSize> result;
#pragma unroll
  for (int i = 0; i < kSize; i++) result.value[i] = is_max ? -INFINITY : 0.0f;
  for (int64_t r = 0; r < p.kernel_h; r++) {
    const int64_t h = h0 + r * p.dilation_h;
    if (h < 0 || h >= p.H) continue;
    const T* row = static_cast<const T*>(params.x) + (n * p.H + h) * p.W * p.x_stride + c;
    for (int64_t s = 0; s < p.kernel_w; s++) {
      const int64_t w = w0 + s * p.dilation_w;
      if (w < 0 || w >= p.W) continue;
      const Vector<T, kSize> x = Vector<T, kSize>::load(row + w * p.x_stride);
#pragma unroll
      for (int i = 0; i < kSize; i++)
        result.value[i] = is_max ? max_with_nan(x.value[i], result.value[i]) : result.value[i] + x.value[i];
    }
  }
  if (!is_max) {
    // The window reaches at most to the end of the padding; with ceil_mode the last one may reach further.
    const int64_t h1 = smaller(h0 + p.kernel_h, p.H + p.pad_h), w1 = smaller(w0 + p.kernel_w, p.W + p.pad_w);
    int64_t divisor = p.divisor_override;
    if (divisor == 0)
      divisor = p.count_include_pad ? (h1 - h0) * (w1 - w0)
                                    : (smaller(h1, p.H) - larger(h0, 0)) * (smaller(w1, p.W) - larger(w0, 0));
#pragma unroll
    for (int i = 0; i < kSize; i++) result.value[i] = result.value[i] / static_cast<float>(divisor);
  }
  result.store(static_cast<T*>(params.y) + pixel * p.y_stride + c);
}

struct AdaptiveParams {
  const void* x;
  void* y;
  AdaptiveAvgPool2dProblem problem;
};

// One block averages one window for blockDim.x vectors of channels. Windows
// may be whole images, with few outputs to spread over the device, so the
// threads along y share a window and their sums meet in shared memory.
template <class T, int kSize>
__global__ void __launch_bounds__(256)
    adaptive_avg_pool2d_kernel(const __grid_constant__ AdaptiveParams params) {
  FASTCNN_SHARED(shared);
  float* partial = reinterpret_cast<float*>(shared);  // [kSize][blockDim.y][blockDim.x]: no bank conflicts
  const AdaptiveAvgPool2dProblem& p = params.problem;
  const int64_t pixel = blockIdx.x, c = static_cast<int64_t>(blockIdx.y * blockDim.x + threadIdx.x) * kSize;
  int64_t n = pixel;
  const int64_t q = divide(n, p.Q), row = divide(n, p.P);
  const int64_t h0 = row * p.H / p.P, h1 = ((row + 1) * p.H + p.P - 1) / p.P;
  const int64_t w0 = q * p.W / p.Q, w1 = ((q + 1) * p.W + p.Q - 1) / p.Q;
  const int64_t width = w1 - w0, count = (h1 - h0) * width;
  Vector<T, kSize> sum = {};
  if (c < p.C) {
    for (int64_t i = threadIdx.y; i < count; i += blockDim.y) {
      int64_t h = i;
      const int64_t w = divide(h, width) + w0;
      const Vector<T, kSize> x = Vector<T, kSize>::load(static_cast<const T*>(params.x) +
                                                        ((n * p.H + h0 + h) * p.W + w) * p.x_stride + c);
#pragma unroll
      for (int e = 0; e < kSize; e++) sum.value[e] += x.value[e];
    }
  }
  const int slot = threadIdx.y * blockDim.x + threadIdx.x, slots = blockDim.x * blockDim.y;
#pragma unroll
  for (int e = 0; e < kSize; e++) partial[e * slots + slot] = sum.value[e];
  __syncthreads();
  if (threadIdx.y != 0 || c >= p.C) return;
#pragma unroll
  for (int e = 0; e < kSize; e++) {
    float total = 0.0f;
    for (int y = 0; y < static_cast<int>(blockDim.y); y++)
      total += partial[e * slots + y * blockDim.x + threadIdx.x];
    sum.value[e] = total / static_cast<float>(count);
  }
  sum.store(static_cast<T*>(params.y) + pixel * p.y_stride + c);
}

}  // namespace

Status pool2d(const Pool2dProblem& problem, const void* x, void* y, void* stream) {
  const int64_t pixels = problem.N * problem.P * problem.Q;
  if (pixels == 0 || problem.C == 0) return Status();
  return for_dtype(problem.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kSize = 16 / sizeof(T);
    const bool wide = vectorises(sizeof(T), {x, y}, {problem.C, problem.x_stride, problem.y_stride});
    const PixelGrid cut = pixel_grid(pixels, wide ? problem.C / kSize : problem.C);
    return launch("pool2d", wide ? pool2d_kernel<T, kSize> : pool2d_kernel<T, 1>, cut.grid, cut.block, 0,
                  stream, PoolParams{x, y, problem});
  });
}

Status adaptive_avg_pool2d(const AdaptiveAvgPool2dProblem& problem, const void* x, void* y, void* stream) {
  const int64_t pixels = problem.N * problem.P * problem.Q;
  if (pixels == 0 || problem.C == 0) return Status();
  if (problem.H == 0 || problem.W == 0)
    return make_status(StatusCode::invalid_argument, "adaptive_avg_pool2d: the input is %lld x %lld pixels",
                       static_cast<long long>(problem.H), static_cast<long long>(problem.W));
  return for_dtype(problem.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kSize = 16 / sizeof(T);
    const bool wide = vectorises(sizeof(T), {x, y}, {problem.C, problem.x_stride, problem.y_stride});
    const int64_t groups = wide ? problem.C / kSize : problem.C;
    // The more positions in a window, the more threads share it.
    const int64_t positions = ceil_div(problem.H, problem.P) * ceil_div(problem.W, problem.Q);
    const dim3 block(groups >= 32 ? 32 : 8, positions >= 32 ? 8 : 2);
    const dim3 grid(static_cast<unsigned>(pixels), static_cast<unsigned>(ceil_div(groups, block.x)));
    const size_t shared = sizeof(float) * block.x * block.y * (wide ? kSize : 1);
    return launch("adaptive_avg_pool2d",
                  wide ? adaptive_avg_pool2d_kernel<T, kSize> : adaptive_avg_pool2d_kernel<T, 1>, grid, block,
                  shared, stream, AdaptiveParams{x, y, problem});
  });
}

}  // namespace fastcnn::cuda
