#include "cuda/launch.h"
#include "cuda/numeric.h"
#include "ops/rbf/rbf_cuda.h"

namespace fastcnn::cuda {

namespace {

struct RbfParams {
  const void *x, *centers;
  void* y;
  RbfProblem problem;
};

// One warp a distance: its lanes share the sum over D and meet by shuffles.
template <class T, int kSize>
__global__ void __launch_bounds__(256) rbf_kernel(const __grid_constant__ RbfParams params) {
  using V = Vector<T, kSize>;
  const RbfProblem& p = params.problem;
  const int lane = threadIdx.x;
  int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const bool inside = n < p.N * p.M;  // uniform within a warp, which takes part in the shuffles either way
  const int64_t m = inside ? divide(n, p.M) : 0;
  float sum = 0.0f;
  if (inside) {
    const T* x = static_cast<const T*>(params.x) + n * p.x_stride;
    const T* center = static_cast<const T*>(params.centers) + m * p.D;
    for (int64_t d = lane * kSize; d < p.D; d += 32 * kSize) {
      const V a = V::load(x + d), b = V::load(center + d);
#pragma unroll
      for (int i = 0; i < kSize; i++) {
        const float difference = a.value[i] - b.value[i];
        sum += difference * difference;
      }
    }
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  if (inside && lane == 0) static_cast<T*>(params.y)[n * p.y_stride + m] = from_float<T>(sum);
}

}  // namespace

Status rbf(const RbfProblem& problem, const void* x, const void* centers, void* y, void* stream) {
  if (problem.N == 0 || problem.M == 0) return Status();
  return for_dtype(problem.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kSize = 16 / sizeof(T);
    const bool wide = vectorises(sizeof(T), {x, centers}, {problem.D, problem.x_stride});
    const dim3 block(32, 8), grid(static_cast<unsigned>(ceil_div(problem.N * problem.M, block.y)));
    return launch("rbf", wide ? rbf_kernel<T, kSize> : rbf_kernel<T, 1>, grid, block, 0, stream,
                  RbfParams{x, centers, y, problem});
  });
}

}  // namespace fastcnn::cuda
