#include "ops/conv2d/conv2d_sm80_cuda.cuh"

namespace fastcnn::cuda {

Status run_sm80_bfloat16(const Conv2dPlan& plan, const Conv2dSm80Params& params, void* stream) {
  return run_sm80<__nv_bfloat16>(plan, params, stream);
}
Status reduce_bfloat16(const Conv2dReduceParams& params, void* stream) {
  return reduce_partial<__nv_bfloat16>(params, stream);
}

}  // namespace fastcnn::cuda
