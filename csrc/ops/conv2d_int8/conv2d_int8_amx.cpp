// Convolution of bytes by tiles of AMX. Behind the packed tiles stand, of each panel, the biases and the
// multipliers, one a lane.
#include "ops/conv2d/convolution_amx.h"
#include "ops/conv2d_int8/finish_int8_cpu.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

using Problem = Int8Conv2dProblem;
using Convolution = AmxConvolution<Problem>;

int channel(int vecs, int v, int lane) {
  switch (vecs) {
    case 1:
      return channel_of<1>(v, lane);
    case 2:
      return channel_of<2>(v, lane);
    case 3:
      return channel_of<3>(v, lane);
    default:
      return channel_of<4>(v, lane);
  }
}

int64_t packed_bytes(const Problem& p) {
  const Convolution convolution{p, 1};
  return convolution.packed_bytes() + convolution.panels.vecs() * 128;
}

FASTCNN_INLINE const char* constants_of(const Convolution& convolution, const void* packed, int64_t panel) {
  return static_cast<const char*>(packed) + convolution.packed_bytes() +
         convolution.panels.first_vec(panel) * 128;
}

void pack(const Problem& p, const int8_t* weight, const int32_t* bias, const float* multiplier,
          void* packed) {
  const Convolution convolution{p, 1};
  const Panels& panels = convolution.panels;
  const int64_t taps = p.R * p.S;
  auto channel_at = [&](int64_t panel, int v, int lane) {
    const int k = channel(panels.vecs_of(panel), v, lane);
    return k < panels.columns_of(panel) ? panels.first_column(panel) + k : -1;
  };
  convolution.pack(packed, 1, channel_at, [&](int64_t k, int64_t tap, int64_t c) -> uint32_t {
    return static_cast<uint8_t>(weight[(k * p.C + c) * taps + tap]);
  });
  for (int64_t i = 0; i < panels.count(); ++i) {
    auto* biases = reinterpret_cast<int32_t*>(const_cast<char*>(constants_of(convolution, packed, i)));
    auto* multipliers = reinterpret_cast<float*>(biases + panels.vecs_of(i) * kWidth);
    for (int v = 0; v < panels.vecs_of(i); ++v)
      for (int lane = 0; lane < kWidth; ++lane) {
        const int64_t k = channel_at(i, v, lane);
        biases[v * kWidth + lane] = k >= 0 ? bias[k] : 0;
        multipliers[v * kWidth + lane] = k >= 0 ? multiplier[k] : 0;
      }
  }
}

template <int NV, int MR>
FASTCNN_INLINE void finish_rows(const char* sums, const char* constants, int columns, const Int8Output& out) {
  IntVec acc[MR][NV];
  FASTCNN_UNROLL for (int j = 0; j < NV; ++j) {
    const IntVec bias = load_ints(constants + j * 64);
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) acc[i][j] = bias + load_ints(sums + i * 256 + j * 64);
  }
  if (out.problem->float_output)
    finish_floats(acc, constants + NV * 64, columns, out);
  else
    finish_bytes(acc, constants + NV * 64, columns, out);
}

template <int NV>
void finish_block(const char* sums, int64_t rows, const char* constants, int columns, const Int8Output& out) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) finish_rows<NV, 4>(sums + i * 256, constants, columns, out.at(i, 0));
  for (; i < rows; ++i) finish_rows<NV, 1>(sums + i * 256, constants, columns, out.at(i, 0));
}

void run(const Problem& p, const uint8_t* x, const void* packed, const uint8_t* residual, void* y,
         int threads) {
  const Convolution convolution{p, 1};
  const Panels& panels = convolution.panels;
  if (p.N * p.P * p.Q == 0) return;
  const Int8Output out{&p, p.has_residual ? residual : nullptr, y};
  convolution.run<true>(x, p.x_zero, packed, threads,
                        [&](const char* sums, int64_t row, int64_t rows, int64_t panel) {
                          const int columns = panels.columns_of(panel);
                          const char* constants = constants_of(convolution, packed, panel);
                          const Int8Output here = out.at(row, panels.first_column(panel));
                          switch (panels.vecs_of(panel)) {
                            case 1:
                              return finish_block<1>(sums, rows, constants, columns, here);
                            case 2:
                              return finish_block<2>(sums, rows, constants, columns, here);
                            case 3:
                              return finish_block<3>(sums, rows, constants, columns, here);
                            default:
                              finish_block<4>(sums, rows, constants, columns, here);
                          }
                        });
}

}  // namespace

extern const Int8Conv2dKernel int8_conv2d{packed_bytes, pack, run};

}  // namespace fastcnn::FASTCNN_ISA
