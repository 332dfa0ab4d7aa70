#include "cuda/device.h"
#include "cuda/launch.h"

namespace fastcnn::cuda {

#ifdef FASTCNN_EMULATED

Status device_count(int* count) {
  *count = 1;
  return Status();
}

Status query_device(int, Device* device) {
  *device = Device{9, 0, 4, 227 * 1024, "emulator"};
  return Status();
}

Status current_multiprocessors(int* count) {
  *count = 2;  // few, so that persistent blocks take several tiles each
  return Status();
}

#else

Status device_count(int* count) {
  const cudaError_t error = cudaGetDeviceCount(count);
  if (error == cudaSuccess) return Status();
  *count = 0;
  return make_status(StatusCode::device_error, "%s", cudaGetErrorString(error));
}

Status query_device(int index, Device* device) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess)
    return make_status(StatusCode::device_error, "device %d: %s", index, cudaGetErrorString(error));
  device->major = properties.major;
  device->minor = properties.minor;
  device->multiprocessors = properties.multiProcessorCount;
  device->shared_memory_per_block = static_cast<int32_t>(properties.sharedMemPerBlockOptin);
  snprintf(device->name, sizeof device->name, "%s", properties.name);
  return Status();
}

Status current_multiprocessors(int* count) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) return Status();
  return make_status(StatusCode::device_error, "%s", cudaGetErrorString(error));
}

#endif

}  // namespace fastcnn::cuda
