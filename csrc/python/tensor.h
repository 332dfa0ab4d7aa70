// A tensor as the extension sees it: DLPack's struct, filled through the table of functions that torch hands
// out.
#pragma once

#include <Python.h>

#include <cstdint>

namespace fastcnn::python {

struct DLTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

constexpr int32_t kCpu = 1;

// Whether it is a plain tensor or Parameter, no other subclass; valid once attach() was called.
bool is_tensor(PyObject* object);

// Whether it is a tensor of any class.
bool is_tensor_like(PyObject* object);

// False with a Python error. Fills `tensor` where the table can read the object, else its data alone.
bool read(PyObject* object, DLTensor* tensor);

inline void* address_of(const DLTensor& tensor) {
  return static_cast<char*>(tensor.data) + tensor.byte_offset;
}

}  // namespace fastcnn::python
