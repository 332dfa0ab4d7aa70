#include "cuda/launch.h"
#include "cuda/numeric.h"
#include "cuda/pixel_grid.h"
#include "ops/subsample2d/subsample2d_cuda.h"

namespace fastcnn::cuda {

namespace {

struct SubsampleParams {
  const void *x, *coefficient, *bias;
  void* y;
  Subsample2dProblem problem;
};

template <class T, int kSize>
__global__ void __launch_bounds__(256) subsample2d_kernel(const __grid_constant__ SubsampleParams params) {
  using V = Vector<T, kSize>;
  const Subsample2dProblem& p = params.problem;
  const int64_t pixel = pixel_index();
  const int64_t c = group_index() * kSize;
  if (pixel >= p.N * p.P * p.Q || c >= p.C) return;
  int64_t n = pixel;
  const int64_t w0 = divide(n, p.Q) * p.kernel_size, h0 = divide(n, p.P) * p.kernel_size;
  V sum = {};
  for (int64_t h = h0; h < h0 + p.kernel_size; h++) {
    for (int64_t w = w0; w < w0 + p.kernel_size; w++) {
      const V x = V::load(static_cast<const T*>(params.x) + ((n * p.H + h) * p.W + w) * p.x_stride + c);
#pragma unroll
      for (int i = 0; i < kSize; i++) sum.value[i] += x.value[i];
    }
  }
  const V coefficient = V::load(static_cast<const T*>(params.coefficient) + c);
  const V bias = V::load(static_cast<const T*>(params.bias) + c);
#pragma unroll
  for (int i = 0; i < kSize; i++)
    sum.value[i] = activate(bias.value[i] + coefficient.value[i] * sum.value[i], p.activation);
  sum.store(static_cast<T*>(params.y) + pixel * p.y_stride + c);
}

}  // namespace

Status subsample2d(const Subsample2dProblem& problem, const void* x, const void* coefficient,
                   const void* bias, void* y, void* stream) {
  const int64_t pixels = problem.N * problem.P * problem.Q;
  if (pixels == 0 || problem.C == 0) return Status();
  return for_dtype(problem.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kSize = 16 / sizeof(T);
    const bool wide =
        vectorises(sizeof(T), {x, coefficient, bias, y}, {problem.C, problem.x_stride, problem.y_stride});
    const PixelGrid cut = pixel_grid(pixels, wide ? problem.C / kSize : problem.C);
    return launch("subsample2d", wide ? subsample2d_kernel<T, kSize> : subsample2d_kernel<T, 1>, cut.grid,
                  cut.block, 0, stream, SubsampleParams{x, coefficient, bias, y, problem});
  });
}

}  // namespace fastcnn::cuda
