// Linear through the microkernel of cpu/gemm.h. Tasks are panels of columns: each weight is read from memory
// once for up to kMaxRows rows, and panels are contiguous, so a thread reads one long stream.
#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "ops/linear/linear_cpu.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

constexpr int64_t kMaxRows = 32 * kRows;

int64_t packed_bytes(const LinearProblem& p, DType weight_dtype) {
  return Panels{p.M}.packed_floats(p.D) * (weight_dtype == DType::float32 ? 4 : 2);
}

void pack(const LinearProblem& p, DType weight_dtype, const float* weight, void* packed) {
  with_dtype(weight_dtype, [&](auto type) {
    pack_panels(Panels{p.M}, p.D, static_cast<decltype(type)*>(packed),
                [&](int64_t m, int64_t d) { return weight[m * p.D + d]; });
  });
}

// Rows x[0..rows-1] of fp32, x_stride apart.
template <class W>
void run_rows(const LinearProblem& p, const float* x, int64_t x_stride, int64_t rows, const W* packed,
              const Output& out, int threads) {
  const Panels panels{p.M};
  int64_t row_blocks = (rows + kMaxRows - 1) / kMaxRows;
  if (panels.count() < 2 * threads)  // too few panels to go round
    row_blocks = max_of(row_blocks, min_of<int64_t>((rows + kRows - 1) / kRows, 2 * threads));
  parallel_for(threads, row_blocks * panels.count(), [&](int64_t task, int) {
    const int64_t panel = task % panels.count();
    const Range block = part_of(rows, row_blocks, task / panels.count());
    const int64_t count = block.end - block.begin, groups = (count + kRows - 1) / kRows;
    for (int64_t g = 0; g < groups; ++g) {
      const Range group = part_of(count, groups, g);
      const int64_t first = block.begin + group.begin;
      const int size = static_cast<int>(group.end - group.begin);
      const float* pointers[kRows];
      for (int i = 0; i < size; ++i) pointers[i] = x + (first + i) * x_stride;
      gemm_rows(size, panels.vecs_of(panel), 1, p.D, pointers, 0,
                packed + panels.first_vec(panel) * kWidth * p.D, panels.columns_of(panel),
                out.at(first, panels.first_column(panel)));
    }
  });
}

void run(const LinearProblem& p, DType weight_dtype, const void* x, const void* packed, const float* bias,
         void* y, int threads) {
  const Output out{p.dtype, p.activation, bias, nullptr, 0, y, p.y_stride};
  with_dtype(weight_dtype, [&](auto weight_type) {
    const auto* weights = static_cast<const decltype(weight_type)*>(packed);
    const int64_t weight_bytes = p.D * p.M * static_cast<int64_t>(sizeof(weight_type));
    threads = threads_for_bytes(threads, weight_bytes * ((p.N + kRows - 1) / kRows));
    if (p.dtype == DType::float32)
      return run_rows(p, static_cast<const float*>(x), p.x_stride, p.N, weights, out, threads);
    // 16-bit rows are widened first, so many at a time that the weights are still read seldom.
    constexpr int64_t kStep = 4 * kMaxRows;
    float* wide = static_cast<float*>(scratch(Scratch::call, min_of(p.N, kStep) * p.D * 4));
    for (int64_t n = 0; n < p.N; n += kStep) {
      const int64_t rows = min_of(kStep, p.N - n);
      with_dtype(p.dtype, [&](auto type) {
        const auto* source = static_cast<const decltype(type)*>(x) + n * p.x_stride;
        parallel_for(threads_for_bytes(threads, rows * p.D * 6), rows,
                     [&](int64_t i, int) { copy_run(source + i * p.x_stride, p.D, wide + i * p.D); });
      });
      run_rows(p, wide, p.D, rows, weights, out.at(n, 0), threads);
    }
  });
}

}  // namespace

extern const LinearKernel linear_kernel{packed_bytes, pack, run};

}  // namespace fastcnn::FASTCNN_ISA
