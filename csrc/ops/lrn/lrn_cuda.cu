#include "cuda/launch.h"
#include "cuda/numeric.h"
#include "cuda/pixel_grid.h"
#include "ops/lrn/lrn_cuda.h"

namespace fastcnn::cuda {

namespace {

struct Normalisation {
  int64_t C;
  int before, after;     // the window of channel c is [c - before, c + after], clipped
  float scale, beta, k;  // scale = alpha / size
};

Normalisation normalisation(const LrnProblem& p) {
  return {p.C,
          static_cast<int>(p.size / 2),
          static_cast<int>((p.size - 1) / 2),
          p.alpha / static_cast<float>(p.size),
          p.beta,
          p.k};
}

// base^-beta. beta is 0.75 in every published network: two
// square roots there, several times cheaper than powf.
__device__ __forceinline__ float negative_power(float base, float beta) {
  if (beta == 0.75f) {
    const float root = rsqrtf(base);
    return root * sqrtf(root);
  }
  return exp2f(-beta * log2f(base));
}

// Channels [c, c + kSize) of one pixel, normalised. The neighbouring vectors that windows reach into are
// loaded again by each thread: they come from L1, so that memory is read once.
template <class T, int kSize>
__device__ __forceinline__ Vector<T, kSize> normalise(const Normalisation& n, const T* pixel, int64_t c) {
  const Vector<T, kSize> own = Vector<T, kSize>::load(pixel + c);
  Vector<T, kSize> y;
  if (kSize > 1 && n.before <= kSize) {  // after <= before: windows stay within three vectors
    float squares[3 * kSize];
    Vector<T, kSize> left = {}, right = {};
    if (c > 0) left = Vector<T, kSize>::load(pixel + c - kSize);
    if (c + kSize < n.C) right = Vector<T, kSize>::load(pixel + c + kSize);
#pragma unroll
    for (int i = 0; i < kSize; i++) {
      squares[i] = left.value[i] * left.value[i];
      squares[kSize + i] = own.value[i] * own.value[i];
      squares[2 * kSize + i] = right.value[i] * right.value[i];
    }
#pragma unroll
    for (int i = 0; i < kSize; i++) {
      float sum = 0.0f;
#pragma unroll
      for (int j = -kSize; j <= kSize; j++)  // constant register indices: a loop over the window would spill
        if (j >= -n.before && j <= n.after) sum += squares[kSize + i + j];
      y.value[i] = own.value[i] * negative_power(n.k + n.scale * sum, n.beta);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kSize; i++) {
      const int64_t first = c + i - n.before, last = c + i + n.after;
      float sum = 0.0f;
      for (int64_t j = first < 0 ? 0 : first; j <= last && j < n.C; j++) {
        const float x = to_float(pixel[j]);
        sum += x * x;
      }
      y.value[i] = own.value[i] * negative_power(n.k + n.scale * sum, n.beta);
    }
  }
  return y;
}

struct LrnParams {
  const void* x;
  void* y;
  Normalisation normalisation;
  int64_t pixels, x_stride, y_stride;
};

template <class T, int kSize>
__global__ void __launch_bounds__(256) lrn_kernel(const __grid_constant__ LrnParams p) {
  const int64_t pixel = pixel_index();
  const int64_t c = group_index() * kSize;
  if (pixel >= p.pixels || c >= p.normalisation.C) return;
  normalise<T, kSize>(p.normalisation, static_cast<const T*>(p.x) + pixel * p.x_stride, c)
      .store(static_cast<T*>(p.y) + pixel * p.y_stride + c);
}

struct LrnMaxPoolParams {
  const void* x;
  void* y;
  Normalisation normalisation;
  Pool2dProblem pool;
};

template <class T, int kSize>
__global__ void __launch_bounds__(256) lrn_max_pool_kernel(const __grid_constant__ LrnMaxPoolParams p) {
  const Pool2dProblem& pool = p.pool;
  const int64_t pixel = pixel_index();
  const int64_t c = group_index() * kSize;
  if (pixel >= pool.N * pool.P * pool.Q || c >= p.normalisation.C) return;
  int64_t n = pixel;
  const int w0 = static_cast<int>(divide(n, pool.Q) * pool.stride_w - pool.pad_w);
  const int h0 = static_cast<int>(divide(n, pool.P) * pool.stride_h - pool.pad_h);
  Vector<T, kSize> best;
#pragma unroll
  for (int i = 0; i < kSize; i++) best.value[i] = -INFINITY;
  for (int r = 0; r < pool.kernel_h; r++) {
    const int h = h0 + r * static_cast<int>(pool.dilation_h);
    if (h < 0 || h >= pool.H) continue;
#pragma unroll 1  // each round holds three vectors: two rounds at once would spill
    for (int s = 0; s < pool.kernel_w; s++) {
      const int w = w0 + s * static_cast<int>(pool.dilation_w);
      if (w < 0 || w >= pool.W) continue;
      const T* x = static_cast<const T*>(p.x) + ((n * pool.H + h) * pool.W + w) * pool.x_stride;
      const Vector<T, kSize> y = normalise<T, kSize>(p.normalisation, x, c);
#pragma unroll
      for (int i = 0; i < kSize; i++) best.value[i] = max_with_nan(y.value[i], best.value[i]);
    }
  }
  best.store(static_cast<T*>(p.y) + pixel * pool.y_stride + c);
}

}  // namespace

Status lrn(const LrnProblem& problem, const void* x, void* y, void* stream) {
  if (problem.pixels == 0 || problem.C == 0) return Status();
  const LrnParams params{x, y, normalisation(problem), problem.pixels, problem.x_stride, problem.y_stride};
  return for_dtype(problem.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kSize = 16 / sizeof(T);
    const bool wide = vectorises(sizeof(T), {x, y}, {problem.C, problem.x_stride, problem.y_stride});
    const PixelGrid cut = pixel_grid(problem.pixels, wide ? problem.C / kSize : problem.C);
    return launch("lrn", wide ? lrn_kernel<T, kSize> : lrn_kernel<T, 1>, cut.grid, cut.block, 0, stream,
                  params);
  });
}

Status lrn_max_pool(const LrnProblem& lrn, const Pool2dProblem& pool, const void* x, void* y, void* stream) {
  const int64_t pixels = pool.N * pool.P * pool.Q;
  if (pixels == 0 || pool.C == 0) return Status();
  LrnMaxPoolParams params{x, y, normalisation(lrn), pool};
  params.normalisation.C = pool.C;
  return for_dtype(pool.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kSize = 16 / sizeof(T);
    const bool wide = vectorises(sizeof(T), {x, y}, {pool.C, pool.x_stride, pool.y_stride});
    const PixelGrid cut = pixel_grid(pixels, wide ? pool.C / kSize : pool.C);
    return launch("lrn_max_pool", wide ? lrn_max_pool_kernel<T, kSize> : lrn_max_pool_kernel<T, 1>, cut.grid,
                  cut.block, 0, stream, params);
  });
}

}  // namespace fastcnn::cuda
