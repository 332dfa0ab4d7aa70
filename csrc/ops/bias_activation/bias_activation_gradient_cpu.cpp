#include "ops/bias_activation/bias_activation_gradient_cpu.h"

#include "cpu/channel_sums.h"
#include "cpu/rows.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

FASTCNN_INLINE Vec gradient(Activation activation, Vec dy, Vec y) {
  switch (activation) {
    case Activation::relu:
      return select(y <= 0.0f, zero(), dy);  // NaN passes, as in PyTorch
    case Activation::sigmoid:
      return dy * (y * (1.0f - y));
    case Activation::tanh:
      return dy * (1.0f - y * y);
    case Activation::scaled_tanh: {
      const Vec t = y * (1 / 1.7159f);
      return dy * (1.7159f * 2 / 3 * (1.0f - t * t));
    }
    default:
      return dy;
  }
}

}  // namespace

void bias_activation_gradient(const BiasActivationProblem& p, const void* dy, const void* y, void* dz,
                              float* db, int threads) {
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t bytes = p.pixels * p.C * sizeof(T);
    threads = threads_for_bytes(threads, 3 * bytes);
    if (dz) prepare_output(dz, bytes);
    auto at = [&](int64_t pixel, int64_t c, int count) {
      Vec g = load_lanes((const T*)dy + pixel * p.dy_stride + c, count);
      if (!dz) return g;
      g = gradient(p.activation, g, load_lanes((const T*)y + pixel * p.y_stride + c, count));
      T* to = (T*)dz + pixel * p.C + c;
      if (count == kWidth)
        store(to, g);
      else
        store_partial(to, g, count);
      return g;
    };
    if (!db) {
      for_each_run(threads, p.pixels, p.C, false, [&](int64_t pixel, int64_t, int64_t) {
        for (int64_t c = 0; c < p.C; c += kWidth) at(pixel, c, (int)min_of<int64_t>(kWidth, p.C - c));
      });
      return;
    }
    channel_sums<1>(threads, p.pixels, p.C, db, [&](int64_t pixel, int64_t c, int count, Vec(&sums)[1]) {
      sums[0] += at(pixel, c, count);
    });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
