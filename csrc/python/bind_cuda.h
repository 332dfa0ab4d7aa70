#pragma once

#include <pybind11/pybind11.h>

namespace fastcnn::python {
// Plans, launches and the device, in `cuda`.
void bind_cuda(pybind11::module_ cuda);
}  // namespace fastcnn::python
