#include "ops/add_relu/add_relu_cpu.h"

#include "cpu/rows.h"

namespace fastcnn::FASTCNN_ISA {

void add_relu(const AddReluProblem& problem, const void* a, const void* b, void* y, int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const bool dense =
        problem.a_stride == problem.C && problem.b_stride == problem.C && problem.y_stride == problem.C;
    const int64_t bytes = problem.pixels * problem.C * sizeof(T);
    const bool streaming = prepare_output(y, bytes);
    for_each_run(threads_for_bytes(threads, 3 * bytes), problem.pixels, problem.C, dense,
                 [&](int64_t pixel, int64_t channel, int64_t length) {
                   const T* pa = (const T*)a + pixel * problem.a_stride + channel;
                   const T* pb = (const T*)b + pixel * problem.b_stride + channel;
                   write_run((T*)y + pixel * problem.y_stride + channel, length, streaming,
                             [&](int64_t i, int count) {
                               return max(zero(), load_lanes(pa + i, count) + load_lanes(pb + i, count));
                             });
                 });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
