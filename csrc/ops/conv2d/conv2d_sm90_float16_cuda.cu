#include "ops/conv2d/conv2d_sm90_resident_cuda.cuh"

namespace fastcnn::cuda {

Status run_sm90_float16(const Conv2dPlan& plan, const Conv2dSm90Params& params, int blocks, void* stream) {
  if (plan.kernel == Conv2dKernel::sm90_resident) return launch_sm90_resident<__half>(params, blocks, stream);
  switch (plan.tile_n) {
#define FASTCNN_CASE(width) \
  case width:               \
    return launch_sm90<__half, width>(params, blocks, stream);
    FASTCNN_SM90_WIDTHS_16BIT(FASTCNN_CASE)
#undef FASTCNN_CASE
  }
  return make_status(StatusCode::unsupported, "conv2d_sm90: there is no tile of %d channels", plan.tile_n);
}

}  // namespace fastcnn::cuda
