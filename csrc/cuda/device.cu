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
  if (error != cudaSuccess) *count = 0;
  return status_of(error, "no CUDA device can be counted");
}

Status query_device(int index, Device* device) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess) {
    char what[32];
    snprintf(what, sizeof what, "device %d", index);
    return status_of(error, what);
  }
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
  return status_of(error, "the current device");
}

#endif

}  // namespace fastcnn::cuda
