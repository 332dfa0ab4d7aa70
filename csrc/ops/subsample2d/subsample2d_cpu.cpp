#include "ops/subsample2d/subsample2d_cpu.h"

#include "cpu/activation.h"
#include "cpu/rows.h"

namespace fastcnn::FASTCNN_ISA {

void subsample2d(const Subsample2dProblem& problem, const void* x, const float* coefficient,
                 const float* bias, void* y, int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t size = problem.kernel_size, row_step = problem.W * problem.x_stride;
    const int64_t bytes = problem.N * problem.H * problem.W * problem.C * sizeof(T);
    const bool streaming =
        prepare_output(y, problem.N * problem.P * problem.Q * problem.y_stride * sizeof(T));
    parallel_for(threads_for_bytes(threads, 2 * bytes), problem.N * problem.P, [&](int64_t task, int) {
      const int64_t n = task / problem.P, p = task % problem.P;
      const T* row = (const T*)x + (n * problem.H + p * size) * row_step;
      for (int64_t q = 0; q < problem.Q; ++q) {
        const T* block = row + q * size * problem.x_stride;
        write_run((T*)y + (task * problem.Q + q) * problem.y_stride, problem.C, streaming,
                  [&](int64_t c, int count) {
                    Vec sum = zero();
                    for (int64_t r = 0; r < size; ++r)
                      for (int64_t s = 0; s < size; ++s)
                        sum += load_lanes(block + c + r * row_step + s * problem.x_stride, count);
                    const Vec shift = bias ? load_lanes(bias + c, count) : zero();
                    return activate(problem.activation, fma(sum, load_lanes(coefficient + c, count), shift));
                  });
      }
      if (streaming) stream_end();
    });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
