#include "ops/elementwise/elementwise_cpu.h"

#include "cpu/activation.h"
#include "cpu/rows.h"

namespace fastcnn::FASTCNN_ISA {
void elementwise(const ElementwiseProblem& problem, const void* a, const void* b, void* y, int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t C = problem.C;
    const Activation activation = (Activation)problem.function;  // where it is neither of the two below
    const bool add = problem.function == Elementwise::add,
               scale = problem.function == Elementwise::scale_channels;
    const bool dense =
        !scale && problem.a_stride == C && problem.y_stride == C && (!add || problem.b_stride == C);
    const int64_t bytes = problem.pixels * C * sizeof(T);
    const bool streaming = prepare_output(y, bytes);
    for_each_run(threads_for_bytes(threads, 4 * bytes), problem.pixels, C, dense,
                 [&](int64_t pixel, int64_t channel, int64_t length) {
                   const T* pa = (const T*)a + pixel * problem.a_stride + channel;
                   T* py = (T*)y + pixel * problem.y_stride + channel;
                   if (!add && !scale)
                     return write_run(py, length, streaming, [&](int64_t i, int count) {
                       return activate(activation, load_lanes(pa + i, count));
                     });
                   const T* pb = (const T*)b +
                                 (scale ? pixel / problem.pixels_per_image : pixel) * problem.b_stride +
                                 channel;
                   write_run(py, length, streaming, [&](int64_t i, int count) {
                     const Vec va = load_lanes(pa + i, count), vb = load_lanes(pb + i, count);
                     return add ? va + vb : va * vb;
                   });
                 });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
