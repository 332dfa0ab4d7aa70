#include <vector>

#include "cuda/launch.h"
#include "cuda/tensor_map.h"

#ifndef FASTCNN_EMULATED
#include <atomic>
#endif

namespace fastcnn::cuda {

#ifndef FASTCNN_EMULATED
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// Asked of the runtime, not linked: the extension must load where there is no driver. Only what was found is
// remembered: a process may ask before its driver is ready. Null: there is none.
Encode find_encode() {
  static std::atomic<Encode> found{nullptr};
  Encode encode = found.load(std::memory_order_relaxed);
  if (encode) return encode;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                             cudaEnableDefault, &result);
#else
  const cudaError_t error =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &result);
#endif
  if (error != cudaSuccess) {
    cudaGetLastError();  // or the next launch would be blamed for it
    return nullptr;
  }
  if (result != cudaDriverEntryPointSuccess || !function) return nullptr;
  encode = reinterpret_cast<Encode>(function);
  found.store(encode, std::memory_order_relaxed);
  return encode;
}

}  // namespace
#endif

bool TensorMapRequest::operator==(const TensorMapRequest& other) const {
  bool same = dtype == other.dtype && rank == other.rank && base == other.base &&
              swizzle_bytes == other.swizzle_bytes && rounds_to_tf32 == other.rounds_to_tf32;
  for (int i = 0; i < rank && same; i++)
    same = size[i] == other.size[i] && box[i] == other.box[i] && step[i] == other.step[i] &&
           (i == 0 || stride_bytes[i - 1] == other.stride_bytes[i - 1]);
  return same;
}

namespace {

struct KeptMap {
  TensorMapRequest request = {};
  TensorMap map;
  bool valid = false;
};
constexpr size_t kKeptMaps = 256;  // 80 KB a thread that launches; a network of 50 layers asks for 200

KeptMap& kept_map(const TensorMapRequest& request) {
  static thread_local std::vector<KeptMap> kept(kKeptMaps);
  uint64_t hash = reinterpret_cast<uintptr_t>(request.base) >> 4;
  for (int i = 0; i < request.rank; i++) hash = hash * 31 + request.size[i] * 7 + request.box[i];
  return kept[(hash ^ (hash >> 17)) % kKeptMaps];
}

Status encode(const TensorMapRequest& request, TensorMap* map);

}  // namespace

Status encode_tensor_map(const TensorMapRequest& request, TensorMap* map) {
  KeptMap& kept = kept_map(request);
  if (!kept.valid || !(kept.request == request)) {
    kept.valid = false;
    const Status status = encode(request, &kept.map);
    if (!status.ok()) return status;
    kept.request = request;
    kept.valid = true;
  }
  *map = kept.map;
  return Status();
}

namespace {

Status encode(const TensorMapRequest& request, TensorMap* map) {
  uint32_t box[4];  // before thinning out, as the driver counts it
  for (int i = 0; i < request.rank; i++) box[i] = request.box[i] * request.step[i];
  const int swizzle = request.swizzle_bytes == 128 ? 3 : request.swizzle_bytes == 64 ? 2 : 1;
#ifdef FASTCNN_EMULATED
  const char* refusal = emulator::encode_tensor_map(
      map, request.dtype == DType::float32 ? 4 : 2, request.rank, const_cast<void*>(request.base),
      request.size, request.stride_bytes, box, request.step, swizzle, request.rounds_to_tf32);
  if (refusal) return make_status(StatusCode::unsupported, "tensor map: %s", refusal);
  return Status();
#else
  const Encode driver_encode = find_encode();
  if (!driver_encode) return make_status(StatusCode::unsupported, "the driver has no cuTensorMapEncodeTiled");
  const CUtensorMapDataType type = request.dtype == DType::float16    ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                   : request.dtype == DType::bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                   : request.rounds_to_tf32           ? CU_TENSOR_MAP_DATA_TYPE_TFLOAT32
                                                                      : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  const CUresult result = driver_encode(
      map, type, request.rank, const_cast<void*>(request.base), request.size, request.stride_bytes, box,
      request.step, CU_TENSOR_MAP_INTERLEAVE_NONE, static_cast<CUtensorMapSwizzle>(swizzle),
      CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return Status();
  return make_status(StatusCode::unsupported, "the driver refused a tensor map of rank %d (error %d)",
                     request.rank, static_cast<int>(result));
#endif
}

}  // namespace

}  // namespace fastcnn::cuda
