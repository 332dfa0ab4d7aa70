// Convolution of bfloat16 by tiles of AMX: products of bfloat16, sums in fp32, rounded once.
#include "ops/conv2d/convolution_amx.h"
#include "ops/conv2d/kernels_cpu.h"
#include "ops/conv2d/shape_cpu.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

using Convolution = AmxConvolution<Conv2dProblem>;

int64_t packed_bytes(const Conv2dProblem& p) { return Convolution{p, 2}.packed_bytes(); }

void pack(const Conv2dProblem& p, const float* weight, WeightForm form, void* packed, int threads) {
  const Convolution convolution{p, 2};
  convolution.pack(
      packed, threads,
      [&](int64_t panel, int v, int lane) {
        const int64_t k = convolution.panels.first_column(panel) + v * kWidth + lane;
        return k < p.K ? k : -1;
      },
      [&](int64_t k, int64_t tap, int64_t c) -> uint32_t {
        return round_to_bfloat16(broadcast(weight[weight_index(p, form, k, c, tap)]))[0];
      });
}

template <int NV, int MR>
FASTCNN_INLINE void finish_rows(const float* sums, int columns, const Output& out) {
  Vec acc[MR][NV];
  FASTCNN_UNROLL for (int i = 0; i < MR; ++i) FASTCNN_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] =
      load(sums + i * 64 + j * kWidth);
  finish_accumulators(acc, columns, out);
}

template <int NV>
void finish_block(const float* sums, int64_t rows, int columns, const Output& out) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) finish_rows<NV, 4>(sums + i * 64, columns, out.at(i, 0));
  for (; i < rows; ++i) finish_rows<NV, 1>(sums + i * 64, columns, out.at(i, 0));
}

void run(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
  const Convolution convolution{p, 2};
  const Panels& panels = convolution.panels;
  const Output out{p.dtype, p.activation, at.bias, at.residual, p.residual_stride, at.y, p.y_stride};
  convolution.run<false>(at.x, 0, at.weight, threads,
                         [&](const char* memory, int64_t row, int64_t rows, int64_t panel) {
                           const auto* sums = reinterpret_cast<const float*>(memory);
                           const int columns = panels.columns_of(panel);
                           const Output here = out.at(row, panels.first_column(panel));
                           switch (panels.vecs_of(panel)) {
                             case 1:
                               return finish_block<1>(sums, rows, columns, here);
                             case 2:
                               return finish_block<2>(sums, rows, columns, here);
                             case 3:
                               return finish_block<3>(sums, rows, columns, here);
                             default:
                               finish_block<4>(sums, rows, columns, here);
                           }
                         });
}

}  // namespace

extern const Conv2dKernel amx_conv2d{packed_bytes, pack, run, nullptr};

}  // namespace fastcnn::FASTCNN_ISA
