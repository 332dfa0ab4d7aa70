#include "ops/subsample2d/subsample2d_gradient_cpu.h"

#include "cpu/channel_sums.h"
#include "cpu/rows.h"

namespace fastcnn::FASTCNN_ISA {

void subsample2d_gradient(const Subsample2dProblem& p, const void* x, const float* coefficient,
                          const void* dy, void* dx, float* dcoefficient, int threads) {
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t pixels = p.N * p.H * p.W, size = p.kernel_size;
    prepare_output(dx, pixels * p.C * sizeof(T));
    threads = threads_for_bytes(threads, 3 * pixels * p.C * sizeof(T));
    channel_sums<1>(
        threads, pixels, p.C, dcoefficient, [&](int64_t pixel, int64_t c, int count, Vec(&sums)[1]) {
          // 32 bits: a division of 64 costs three times as much.
          const uint32_t line = (uint32_t)pixel / (uint32_t)p.W;
          const int64_t w = pixel - (int64_t)line * p.W;
          const int64_t n = line / (uint32_t)p.H, h = line - n * p.H;
          const int64_t row = (uint32_t)h / (uint32_t)size, column = (uint32_t)w / (uint32_t)size;
          Vec g = zero();
          if (row < p.P && column < p.Q)
            g = load_lanes((const T*)dy + ((n * p.P + row) * p.Q + column) * p.y_stride + c, count);
          sums[0] = fma(g, load_lanes((const T*)x + pixel * p.x_stride + c, count), sums[0]);
          g = g * load_lanes(coefficient + c, count);
          T* const to = (T*)dx + pixel * p.C + c;
          if (count == kWidth)
            store(to, g);
          else
            store_partial(to, g, count);
        });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
