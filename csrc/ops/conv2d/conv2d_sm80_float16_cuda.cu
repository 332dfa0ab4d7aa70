#include "ops/conv2d/conv2d_sm80_cuda.cuh"

namespace fastcnn::cuda {

Status run_sm80_float16(const Conv2dPlan& plan, const Conv2dSm80Params& params, void* stream) {
  return run_sm80<__half>(plan, params, stream);
}
Status reduce_float16(const Conv2dReduceParams& params, void* stream) {
  return reduce_partial<__half>(params, stream);
}

}  // namespace fastcnn::cuda
