#include "cuda/launch.h"
#include "cuda/numeric.h"
#include "cuda/pixel_grid.h"
#include "ops/add_relu/add_relu_cuda.h"

namespace fastcnn::cuda {

namespace {

struct AddReluParams {
  const void *a, *b;
  void* y;
  AddReluProblem problem;
};

template <class T, int kSize>
__global__ void __launch_bounds__(256) add_relu_kernel(const __grid_constant__ AddReluParams params) {
  using V = Vector<T, kSize>;
  const AddReluProblem& p = params.problem;
  const int64_t pixel = pixel_index();
  const int64_t c = group_index() * kSize;
  if (pixel >= p.pixels || c >= p.C) return;
  V sum = V::load(static_cast<const T*>(params.a) + pixel * p.a_stride + c);
  const V other = V::load(static_cast<const T*>(params.b) + pixel * p.b_stride + c);
#pragma unroll
  for (int i = 0; i < kSize; i++) sum.value[i] = relu(sum.value[i] + other.value[i]);
  sum.store(static_cast<T*>(params.y) + pixel * p.y_stride + c);
}

}  // namespace

Status add_relu(const AddReluProblem& problem, const void* a, const void* b, void* y, void* stream) {
  if (problem.pixels == 0 || problem.C == 0) return Status();
  return for_dtype(problem.dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kSize = 16 / sizeof(T);
    const bool wide =
        vectorises(sizeof(T), {a, b, y}, {problem.C, problem.a_stride, problem.b_stride, problem.y_stride});
    const PixelGrid cut = pixel_grid(problem.pixels, wide ? problem.C / kSize : problem.C);
    return launch("add_relu", wide ? add_relu_kernel<T, kSize> : add_relu_kernel<T, 1>, cut.grid, cut.block,
                  0, stream, AddReluParams{a, b, y, problem});
  });
}

}  // namespace fastcnn::cuda
