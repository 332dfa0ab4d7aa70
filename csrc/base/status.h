// What a kernel launch reports. python/bind_cuda.cpp turns anything but ok into a Python exception.
#pragma once

#include <cstdint>

namespace fastcnn {

enum class StatusCode : int32_t {
  ok = 0,
  invalid_argument = 1,
  unsupported = 2,
  out_of_memory = 3,
  device_error = 4
};

struct Status {
  StatusCode code = StatusCode::ok;
  char message[248] = {};
  bool ok() const { return code == StatusCode::ok; }
};

}  // namespace fastcnn
