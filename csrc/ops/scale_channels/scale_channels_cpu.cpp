#include "ops/scale_channels/scale_channels_cpu.h"

#include "cpu/activation.h"
#include "cpu/rows.h"

namespace fastcnn::FASTCNN_ISA {

void scale_channels(const ScaleChannelsProblem& problem, const void* x, const void* scale,
                    const void* residual, void* y, int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t pixels = problem.N * problem.pixels, bytes = pixels * problem.C * sizeof(T);
    const bool streaming = prepare_output(y, pixels * problem.y_stride * sizeof(T));
    for_each_run(
        threads_for_bytes(threads, (residual ? 3 : 2) * bytes), pixels, problem.C, false,
        [&](int64_t pixel, int64_t channel, int64_t length) {
          const T* px = (const T*)x + pixel * problem.x_stride + channel;
          const T* ps = (const T*)scale + pixel / problem.pixels * problem.C + channel;
          const T* pr = residual ? (const T*)residual + pixel * problem.residual_stride + channel : nullptr;
          write_run((T*)y + pixel * problem.y_stride + channel, length, streaming, [&](int64_t i, int count) {
            const Vec a = load_lanes(px + i, count), s = load_lanes(ps + i, count);
            return activate(problem.activation, residual ? fma(a, s, load_lanes(pr + i, count)) : a * s);
          });
        });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
