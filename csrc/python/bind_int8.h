#pragma once

#include <pybind11/pybind11.h>

namespace fastcnn::python {
// Int8Conv2d, the problems of ops/int8 and their calls, in `cpu`; the problems in `root`.
void bind_int8(pybind11::module_& root, pybind11::module_& cpu);
}  // namespace fastcnn::python
