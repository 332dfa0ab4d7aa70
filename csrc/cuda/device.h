// The GPUs, as the CUDA runtime sees them. Works, and says why there is none, on machines without a driver.
#pragma once

#include <cstdint>

#include "base/status.h"

namespace fastcnn::cuda {

struct Device {
  int32_t major, minor, multiprocessors, shared_memory_per_block;
  char name[256];
};

// Fails with the runtime's own words where there is no driver or no device.
Status device_count(int* count);
Status query_device(int index, Device* device);
// Of the device that is current to this thread.
Status current_multiprocessors(int* count);

}  // namespace fastcnn::cuda
