#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>
#include <utility>

#include "plan/plan.h"

namespace fastcnn::python {

// A tensor of a plan, as Python gives it: (buffer, byte offset), a buffer alone, or None.
struct PlaceArgument : Place {
  PlaceArgument(const pybind11::object& given) {
    if (given.is_none()) return;
    if (pybind11::isinstance<pybind11::int_>(given)) {
      buffer = given.cast<int>();
    } else {
      std::tie(buffer, offset) = given.cast<std::pair<int, int64_t>>();
    }
  }
};

}  // namespace fastcnn::python
