// The convolution algorithms, as each instruction set implements them. Which one takes which problem is
// decided in conv2d.cpp; nothing here checks.
#pragma once

#include <cstdint>

#include "base/problem.h"
#include "cpu/isa.h"

namespace fastcnn {

// Weights packed as a kernel reads them, or as PyTorch keeps them, in fp32: of each output channel,
// [C / groups][R][S] (contiguous) or [R][S][C / groups] (channels_last). The flipped forms are such weights
// of another convolution, whose gradient with respect to its input this one is (stride 1): its output
// channels are this one's input channels, and its taps are read backwards.
enum class WeightForm { packed, contiguous, channels_last, flipped_contiguous, flipped_channels_last };

struct Conv2dPointers {
  const void* x;
  const void* weight;
  WeightForm form;
  const float* bias;     // null: none
  const void* residual;  // null: none
  void* y;
  bool max_pool;  // y takes the maximum over each 2x2 block of the result; Winograd only
};

struct Conv2dKernel {
  int64_t (*packed_bytes)(const Conv2dProblem& problem);
  void (*pack)(const Conv2dProblem& problem, const float* weight, WeightForm form, void* packed, int threads);
  void (*run)(const Conv2dProblem& problem, const Conv2dPointers& pointers, int threads);
  // Whether run() takes weights that are not packed, and packs them on the way; null: it never does.
  bool (*takes_unpacked)(const Conv2dProblem& problem);
};

}  // namespace fastcnn

FASTCNN_FOR_EACH_ISA(extern const Conv2dKernel direct_conv2d, winograd_f2_conv2d, winograd_f4_conv2d,
                     winograd_f6_conv2d, winograd5x5_conv2d, staged_conv2d, narrow_groups_conv2d,
                     narrow_conv2d)

#if defined(__x86_64__)
namespace fastcnn::avx512_bf16 {
extern const Conv2dKernel direct_conv2d;
}
namespace fastcnn::amx {
extern const Conv2dKernel amx_conv2d;
}
#endif
