// Two passes over memory each way: the sums, then what they are for.
#include "ops/batch_norm/batch_norm_cpu.h"

#include "cpu/channel_sums.h"
#include "cpu/rows.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

template <class T>
FASTCNN_INLINE void store_lanes(T* p, Vec a, int count) {
  if (count == kWidth)
    store(p, a);
  else
    store_partial(p, a, count);
}

// scale and shift of a channel: y = x scale + shift. In the caller's memory, [2][C].
float* affine(const BatchNormProblem& p, const BatchNormPointers& at, float* memory) {
  for (int64_t c = 0; c < p.C; ++c) {
    const float scale = at.inv_std[c] * (at.weight ? at.weight[c] : 1.0f);
    memory[c] = scale;
    memory[p.C + c] = (at.bias ? at.bias[c] : 0.0f) - at.mean[c] * scale;
  }
  return memory;
}

// Calls f(pixel, c, count) for every vector of channels of every pixel.
template <class F>
FASTCNN_INLINE void each_vector(int threads, int64_t pixels, int64_t C, F&& f) {
  const int64_t per_task = max_of<int64_t>(1, (32 << 10) / C);
  parallel_for(threads, (pixels + per_task - 1) / per_task, [&](int64_t task, int) {
    const int64_t end = min_of(pixels, (task + 1) * per_task);
    for (int64_t pixel = task * per_task; pixel < end; ++pixel) {
      int64_t c = 0;
      for (; c + kWidth <= C; c += kWidth) f(pixel, c, kWidth);
      if (c < C) f(pixel, c, (int)(C - c));
    }
  });
}

}  // namespace

void batch_norm(const BatchNormProblem& p, const BatchNormPointers& at, int threads) {
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    const T* const x = (const T*)at.x;
    const int64_t bytes = p.pixels * p.C * sizeof(T);
    threads = threads_for_bytes(threads, 2 * bytes);
    // Sums of x - x[first pixel] and of its square: without the shift the variance would cancel where the
    // mean is large against it.
    float* const partial = sums_memory<2>(p.pixels, p.C);
    chunk_sums<2>(threads, p.pixels, p.C, partial, [&](int64_t pixel, int64_t c, int count, Vec(&sums)[2]) {
      const Vec d = load_lanes(x + pixel * p.x_stride + c, count) - load_lanes(x + c, count);
      sums[0] += d;
      sums[1] = fma(d, d, sums[1]);
    });
    const double n = (double)p.pixels;
    join_sums<2>(p.pixels, p.C, partial, [&](int64_t c, const double* sums) {
      const double shifted = sums[0] / n;
      const double m2 = sums[1] - sums[0] * shifted;
      const double variance = m2 > 0 ? m2 / n : m2 <= 0 ? 0 : m2;  // NaN stays
      const Vec first = load_partial(x + c, 1);
      at.mean[c] = (float)((double)first[0] + shifted);
      at.inv_std[c] = (float)(1 / __builtin_sqrt(variance + (double)p.eps));
      if (at.running_mean) {
        at.running_mean[c] += p.momentum * (at.mean[c] - at.running_mean[c]);
        const float unbiased = (float)(variance * n / (n - 1));
        at.running_var[c] += p.momentum * (unbiased - at.running_var[c]);
      }
    });
    const float* const scale = affine(p, at, (float*)scratch(Scratch::call, 2 * p.C * sizeof(float)));
    const float* const shift = scale + p.C;
    T* const y = (T*)at.y;
    const T* const residual = (const T*)at.residual;
    prepare_output(y, bytes);
    each_vector(threads, p.pixels, p.C, [&](int64_t pixel, int64_t c, int count) {
      Vec value = fma(load_lanes(x + pixel * p.x_stride + c, count), load_lanes(scale + c, count),
                      load_lanes(shift + c, count));
      if (residual) value += load_lanes(residual + pixel * p.residual_stride + c, count);
      if (p.relu) value = max(zero(), value);
      store_lanes(y + pixel * p.C + c, value, count);
    });
  });
}

void batch_norm_gradient(const BatchNormProblem& p, const BatchNormPointers& at,
                         const BatchNormGradients& gradients, int threads) {
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    const T *const x = (const T*)at.x, *const dy = (const T*)gradients.dy, *const y = (const T*)at.y;
    const int64_t C = p.C, bytes = p.pixels * C * sizeof(T);
    threads = threads_for_bytes(threads, 2 * bytes);
    float* const partial = sums_memory<2>(p.pixels, C);
    // scale and shift, the forward's, from which the ReLU's mask is known without reading y; a and b, below.
    float* const constants = (float*)scratch(Scratch::weights, 4 * C * sizeof(float));
    const float* const scale = affine(p, at, constants);
    const float* const shift = scale + C;
    auto masked = [&](int64_t pixel, int64_t c, int count, Vec value) {
      const Vec g = load_lanes(dy + pixel * p.dy_stride + c, count);
      if (!p.relu) return g;
      const Vec result = p.has_residual
                             ? load_lanes(y + pixel * C + c, count)
                             : fma(value, load_lanes(scale + c, count), load_lanes(shift + c, count));
      return select(result <= 0.0f, zero(), g);
    };
    chunk_sums<2>(threads, p.pixels, C, partial, [&](int64_t pixel, int64_t c, int count, Vec(&sums)[2]) {
      const Vec value = load_lanes(x + pixel * p.x_stride + c, count);
      const Vec g = masked(pixel, c, count, value);
      sums[0] += g;
      sums[1] = fma(g, value - load_lanes(at.mean + c, count), sums[1]);
    });
    // dx = scale (g - mean(g) - (x - mean) inv_std^2 mean(g (x - mean))) = scale g + a (x - mean) + b
    float *const a = constants + 2 * C, *const b = a + C;
    const double n = (double)p.pixels;
    join_sums<2>(p.pixels, C, partial, [&](int64_t c, const double* sums) {
      const double inv_std = at.inv_std[c];
      const double slope = -(double)scale[c] * inv_std * inv_std * sums[1] / n;
      a[c] = (float)slope;
      b[c] = (float)(-(double)scale[c] * sums[0] / n);
      gradients.dbias[c] = (float)sums[0];
      gradients.dweight[c] = (float)(sums[1] * inv_std);
    });
    T *const dx = (T*)gradients.dx, *const dresidual = (T*)gradients.dresidual;
    prepare_output(dx, bytes);
    if (dresidual) prepare_output(dresidual, bytes);
    each_vector(threads, p.pixels, C, [&](int64_t pixel, int64_t c, int count) {
      const Vec value = load_lanes(x + pixel * p.x_stride + c, count);
      const Vec g = masked(pixel, c, count, value);
      if (dresidual) store_lanes(dresidual + pixel * C + c, g, count);
      const Vec centred = value - load_lanes(at.mean + c, count);
      store_lanes(dx + pixel * C + c,
                  fma(g, load_lanes(scale + c, count),
                      fma(centred, load_lanes(a + c, count), load_lanes(b + c, count))),
                  count);
    });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
