#include "cuda/launch.h"
#include "cuda/tensor_map.h"

#ifndef FASTCNN_EMULATED
#include <cudaTypedefs.h>
#endif

namespace fastcnn::cuda {

Status encode_tensor_map(const TensorMapRequest& request, TensorMap* map) {
  uint32_t box[4];  // before thinning out, as the driver counts it
  for (int i = 0; i < request.rank; i++) box[i] = request.box[i] * request.step[i];
  const int swizzle = request.swizzle_bytes == 128 ? 3 : request.swizzle_bytes == 64 ? 2 : 1;
#ifdef FASTCNN_EMULATED
  const char* refusal = emulator::encode_tensor_map(
      map, request.dtype == DType::float32 ? 4 : 2, request.rank, const_cast<void*>(request.base),
      request.size, request.stride_bytes, box, request.step, swizzle);
  if (refusal) return make_status(StatusCode::unsupported, "tensor map: %s", refusal);
  return Status();
#else
  // Asked of the runtime, not linked: the extension must load where there is no driver.
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                         &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
      function = nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  if (!encode) return make_status(StatusCode::unsupported, "the driver has no cuTensorMapEncodeTiled");
  const CUtensorMapDataType type = request.dtype == DType::float32   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                   : request.dtype == DType::float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                                     : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const CUresult result =
      encode(map, type, request.rank, const_cast<void*>(request.base), request.size, request.stride_bytes,
             box, request.step, CU_TENSOR_MAP_INTERLEAVE_NONE, static_cast<CUtensorMapSwizzle>(swizzle),
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return Status();
  return make_status(StatusCode::unsupported, "the driver refused a tensor map of rank %d (error %d)",
                     request.rank, static_cast<int>(result));
#endif
}

}  // namespace fastcnn::cuda
