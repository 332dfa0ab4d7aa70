// One pass over memory: a pixel's squares and products lie in padded rows in the first-level cache, so that
// every window is `size` plain loads.
#include "ops/lrn/lrn_gradient_cpu.h"

#include "cpu/rows.h"
#include "ops/lrn/power.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

// kSize is problem.size where it is a constant the compiler can unroll, else 0.
template <int kSize>
FASTCNN_INLINE Vec window_sum(const float* first, int64_t size) {
  if (kSize) size = kSize;
  Vec sum = load(first);
#pragma GCC unroll 8
  for (int64_t i = 1; i < size; ++i) sum += load(first + i);
  return sum;
}

// powers(s) is s^-beta. squares and products hold channel c at c + before and c + after, zeros around.
template <int kSize, class T, class Power>
FASTCNN_INLINE void pixel_gradient(const LrnProblem& p, const T* x, const T* dy, T* dx, float* squares,
                                   float* products, float* direct, Power&& power_of) {
  const int64_t before = p.size / 2, after = (p.size - 1) / 2;
  const Vec scale = broadcast(p.alpha / (float)p.size), k = broadcast(p.k);
  const Vec factor = broadcast(-2 * p.alpha * p.beta / (float)p.size);
  for (int64_t c = 0; c < p.C; c += kWidth) {
    const int count = (int)min_of<int64_t>(kWidth, p.C - c);
    const Vec value = load_lanes(x + c, count);
    store(squares + before + c, value * value);  // lanes beyond C are zeros
  }
  for (int64_t c = 0; c < p.C; c += kWidth) {
    const int count = (int)min_of<int64_t>(kWidth, p.C - c);
    const Vec s = fma(window_sum<kSize>(squares + c, p.size), scale, k);
    const Vec through = load_lanes(dy + c, count) * power_of(s);
    store(direct + c, through);
    const Vec product = load_lanes(x + c, count) * through / s;
    if (count == kWidth)
      store(products + after + c, product);
    else
      store_partial(products + after + c, product, count);
  }
  write_run(dx, p.C, false, [&](int64_t c, int count) {
    return fma(load_lanes(x + c, count) * factor, window_sum<kSize>(products + c, p.size), load(direct + c));
  });
}

template <class T, class Power>
void all_pixels(const LrnProblem& p, const T* x, const T* dy, T* dx, int threads, Power&& power_of) {
  const int64_t row = p.C + p.size + 2 * kWidth, per_task = max_of<int64_t>(1, (16 << 10) / p.C);
  parallel_for(threads, (p.pixels + per_task - 1) / per_task, [&](int64_t task, int) {
    float* const squares = (float*)scratch(Scratch::task, 3 * row * sizeof(float));
    __builtin_memset(squares, 0, 3 * row * sizeof(float));
    const int64_t end = min_of(p.pixels, (task + 1) * per_task);
    for (int64_t pixel = task * per_task; pixel < end; ++pixel) {
      const T *from = x + pixel * p.x_stride, *grad = dy + pixel * p.y_stride;
      if (p.size == 5)
        pixel_gradient<5>(p, from, grad, dx + pixel * p.C, squares, squares + row, squares + 2 * row,
                          power_of);
      else
        pixel_gradient<0>(p, from, grad, dx + pixel * p.C, squares, squares + row, squares + 2 * row,
                          power_of);
    }
  });
}

}  // namespace

void lrn_gradient(const LrnProblem& problem, const void* x, const void* dy, void* dx, int threads) {
  if (problem.pixels * problem.C == 0) return;
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t bytes = problem.pixels * problem.C * sizeof(T);
    prepare_output(dx, bytes);
    threads = threads_for_bytes(threads, 4 * bytes);
    auto run = [&](auto&& power_of) {
      all_pixels(problem, (const T*)x, (const T*)dy, (T*)dx, threads, power_of);
    };
    if (problem.beta == 0.75f)
      run([](Vec s) {
        const Vec root = sqrt(s);
        return 1.0f / (root * sqrt(root));
      });
    else if (problem.beta == 0.5f)
      run([](Vec s) { return 1.0f / sqrt(s); });
    else if (problem.beta == 1.0f)
      run([](Vec s) { return 1.0f / s; });
    else
      run([beta = problem.beta](Vec s) { return power(s, -beta); });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
