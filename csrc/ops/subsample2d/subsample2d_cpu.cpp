#include "ops/subsample2d/subsample2d_cpu.h"

#include "cpu/activation.h"
#include "cpu/rows.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

// One line of output from pixels that lie end to end and fill less than a vector: a block's rows are summed
// for the whole line at once, its columns pixel by pixel, and the activation again for the whole line. Whole
// vectors are stored in between, each over what the one before wrote too many.
template <class T>
void narrow_row(const Subsample2dProblem& problem, const T* x, const float* coefficient, const float* bias,
                T* y) {
  const int64_t C = problem.C, size = problem.kernel_size, floats = problem.W * C;
  float* const line = (float*)scratch(Scratch::task, (floats + problem.Q * C + 2 * kWidth) * sizeof(float));
  float* const result = line + floats + kWidth;
  for (int64_t i = 0; i < floats; i += kWidth) {
    const int count = (int)min_of<int64_t>(kWidth, floats - i);
    Vec sum = zero();
    for (int64_t r = 0; r < size; ++r) sum += load_lanes(x + r * floats + i, count);
    store(line + i, sum);
  }
  const Vec scale = load_partial(coefficient, (int)C), shift = bias ? load_partial(bias, (int)C) : zero();
  for (int64_t q = 0; q < problem.Q; ++q) {
    Vec sum = zero();
    for (int64_t s = 0; s < size; ++s) sum += load(line + (q * size + s) * C);
    store(result + q * C, fma(sum, scale, shift));
  }
  auto write = [&](int64_t at, int64_t length, T* to) {
    write_run(to, length, false,
              [&](int64_t i, int) { return activate(problem.activation, load(result + at + i)); });
  };
  if (problem.y_stride == C) return write(0, problem.Q * C, y);
  for (int64_t q = 0; q < problem.Q; ++q) write(q * C, C, y + q * problem.y_stride);
}

}  // namespace

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
      if (problem.C < kWidth && problem.x_stride == problem.C)
        return narrow_row(problem, row, coefficient, bias, (T*)y + task * problem.Q * problem.y_stride);
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
