// The CUDA kernels as Python's: _C.cuda, and for tests the same on the emulator, _emulated.cuda.
#include "python/bind_cuda.h"

#include <pybind11/stl.h>

#include <string>
#include <utility>

#include "base/problem.h"
#include "base/status.h"
#include "cuda/device.h"
#include "ops/add_relu/add_relu_cuda.h"
#include "ops/concat/copy_slice_cuda.h"
#include "ops/conv2d/conv2d_cuda.h"
#include "ops/conv2d_max_pool2d/conv2d_max_pool2d_cuda.h"
#include "ops/lrn/lrn_cuda.h"
#include "ops/pool/pool_cuda.h"
#include "ops/rbf/rbf_cuda.h"
#include "ops/subsample2d/subsample2d_cuda.h"

namespace fastcnn::python {
namespace {

namespace py = pybind11;

using Address = uintptr_t;
void* at(Address address) { return reinterpret_cast<void*>(address); }

// Throws what a launch reported: ValueError, NotImplementedError, MemoryError or RuntimeError.
void check(const Status& status) {
  switch (status.code) {
    case StatusCode::ok:
      return;
    case StatusCode::invalid_argument:
      throw py::value_error(status.message);
    case StatusCode::unsupported:
      PyErr_SetString(PyExc_NotImplementedError, status.message);
      break;
    case StatusCode::out_of_memory:
      PyErr_SetString(PyExc_MemoryError, status.message);
      break;
    case StatusCode::device_error:
      PyErr_SetString(PyExc_RuntimeError, status.message);
      break;
  }
  throw py::error_already_set();
}

// How an argument of a launch comes from Python: an address for a pointer, anything else as it is.
template <class T>
struct Argument {
  using Given = T;
  static T of(T given) { return given; }
};
template <class T>
struct Argument<T*> {
  using Given = Address;
  static T* of(Address given) { return static_cast<T*>(at(given)); }
};

// m.<name>(problems..., addresses..., stream=0); `names` are those of the arguments before the stream.
template <class... T, class... Names>
void def_launch(py::module_& m, const char* name, Status (*launch)(T...), Names... names) {
  m.def(
      name, [launch](typename Argument<T>::Given... given) { check(launch(Argument<T>::of(given)...)); },
      py::arg(names)..., py::arg("stream") = 0);
}

}  // namespace

void bind_cuda(py::module_ m) {
  m.doc() = "CUDA kernels. Addresses and streams are ints, 0 where there is none; launches do not wait.";
#ifdef FASTCNN_EMULATED
  m.attr("architectures") = py::make_tuple("emulated");
  m.attr("source") = "emulated";
#else
  m.attr("architectures") = py::str(FASTCNN_CUDA_ARCHS).attr("split")(",");
  m.attr("source") = FASTCNN_CUDA_SOURCE;  // a hash, by which the ledger knows what it verified
#endif
  m.def(
      "unavailable",
      [] {
        int count = 0;
        const Status status = cuda::device_count(&count);
        return std::string(!status.ok() ? status.message : count == 0 ? "no CUDA device is visible" : "");
      },
      "Why no GPU can be used, in the CUDA runtime's words; \"\" if one can.");
  m.def(
      "device",
      [](int index) {
        cuda::Device device;
        check(cuda::query_device(index, &device));
        return py::dict(py::arg("name") = device.name,
                        py::arg("capability") = py::make_tuple(device.major, device.minor),
                        py::arg("multiprocessors") = device.multiprocessors,
                        py::arg("shared_memory_per_block") = device.shared_memory_per_block);
      },
      py::arg("index"));

  py::class_<cuda::Conv2dPlan>(m, "Conv2dPlan", py::module_local())
      .def(py::init([](const std::string& name) {
             cuda::Conv2dPlan plan;
             check(cuda::conv2d_plan_from_name(name, &plan));
             return plan;
           }),
           py::arg("name"))
      .def_property_readonly("name", &cuda::conv2d_plan_name)
      .def_property_readonly("kernel",
                             [](const cuda::Conv2dPlan& plan) {
                               const std::string name = cuda::conv2d_plan_name(plan);
                               return name.substr(0, name.find('/'));
                             })
      .def_readonly("tile_m", &cuda::Conv2dPlan::tile_m)
      .def_readonly("tile_n", &cuda::Conv2dPlan::tile_n)
      .def_readonly("stages", &cuda::Conv2dPlan::stages)
      .def_readonly("splits", &cuda::Conv2dPlan::splits)
      .def("__repr__",
           [](const cuda::Conv2dPlan& plan) { return "Conv2dPlan(" + cuda::conv2d_plan_name(plan) + ")"; });
  auto as_device = [](std::pair<int, int> capability, int multiprocessors, int shared_memory_per_block) {
    return cuda::Device{capability.first, capability.second, multiprocessors, shared_memory_per_block, ""};
  };
  m.def(
      "conv2d_plans",
      [=](const Conv2dProblem& p, std::pair<int, int> capability, int multiprocessors,
          int shared_memory_per_block, bool tf32) {
        return cuda::conv2d_plans(p, as_device(capability, multiprocessors, shared_memory_per_block),
                                  tf32 ? cuda::Float32Mode::tf32 : cuda::Float32Mode::strict);
      },
      py::arg("problem"), py::arg("capability"), py::arg("multiprocessors"),
      py::arg("shared_memory_per_block"), py::arg("tf32"),
      "Every plan that can run the problem on such a device, the one expected fastest first.");
  m.def(
      "conv2d_plan_reason",
      [=](const Conv2dProblem& p, const cuda::Conv2dPlan& plan, std::pair<int, int> capability,
          int shared_memory_per_block) {
        return cuda::conv2d_plan_reason(p, plan, as_device(capability, 1, shared_memory_per_block));
      },
      py::arg("problem"), py::arg("plan"), py::arg("capability"), py::arg("shared_memory_per_block"),
      "Why the plan cannot run the problem; \"\" if it can.");
  m.def(
      "conv2d_plan_prediction",
      [=](const Conv2dProblem& p, const cuda::Conv2dPlan& plan, std::pair<int, int> capability,
          int multiprocessors, int shared_memory_per_block) {
        const auto device = as_device(capability, multiprocessors, shared_memory_per_block);
        return py::make_tuple(cuda::conv2d_plan_cycles(p, plan, device),
                              cuda::conv2d_plan_share(p, plan, device));
      },
      py::arg("problem"), py::arg("plan"), py::arg("capability"), py::arg("multiprocessors"),
      py::arg("shared_memory_per_block"),
      "Clock cycles that the cost model expects, and the share of multiprocessors kept busy.");
  m.def("conv2d_workspace_bytes", &cuda::conv2d_workspace_bytes, py::arg("problem"), py::arg("plan"));
  m.def("conv2d_from_linear", &cuda::conv2d_from_linear, py::arg("problem"));
  m.def(
      "conv2d",
      [](const Conv2dProblem& p, const cuda::Conv2dPlan& plan, Address x, Address weight, Address bias,
         Address residual, Address y, Address workspace, Address stream) {
        check(cuda::conv2d(p, plan, at(x), at(weight), at(bias), at(residual), at(y), at(workspace),
                           at(stream)));
      },
      py::arg("problem"), py::arg("plan"), py::arg("x"), py::arg("weight"), py::arg("bias"),
      py::arg("residual"), py::arg("y"), py::arg("workspace") = 0, py::arg("stream") = 0);
  py::class_<cuda::Conv2dMaxPool2dPlan>(m, "Conv2dMaxPool2dPlan", py::module_local())
      .def(py::init([](int tile_p, int tile_q, bool tf32) {
             return cuda::Conv2dMaxPool2dPlan{tf32 ? cuda::Float32Mode::tf32 : cuda::Float32Mode::strict,
                                              tile_p, tile_q};
           }),
           py::arg("tile_p"), py::arg("tile_q"), py::arg("tf32"))
      .def_readonly("tile_p", &cuda::Conv2dMaxPool2dPlan::tile_p)
      .def_readonly("tile_q", &cuda::Conv2dMaxPool2dPlan::tile_q);
  m.def(
      "conv2d_max_pool2d_plan",
      [=](const Conv2dProblem& conv, const Pool2dProblem& pool, std::pair<int, int> capability,
          int shared_memory_per_block, bool tf32) {
        cuda::Conv2dMaxPool2dPlan plan = {};
        const std::string reason =
            cuda::conv2d_max_pool2d_plan(conv, pool, as_device(capability, 1, shared_memory_per_block),
                                         tf32 ? cuda::Float32Mode::tf32 : cuda::Float32Mode::strict, &plan);
        return std::pair(plan, reason);
      },
      py::arg("conv"), py::arg("pool"), py::arg("capability"), py::arg("shared_memory_per_block"),
      py::arg("tf32"), "The plan, and \"\" if it can run the problem, else why not.");
  m.def("conv2d_max_pool2d_tile_k", &cuda::conv2d_max_pool2d_tile_k, py::arg("dtype"));
  def_launch(m, "conv2d_max_pool2d", &cuda::conv2d_max_pool2d, "conv", "pool", "plan", "x", "weight", "bias",
             "y");
  def_launch(m, "lrn", &cuda::lrn, "problem", "x", "y");
  def_launch(m, "lrn_max_pool", &cuda::lrn_max_pool, "lrn", "pool", "x", "y");
  def_launch(m, "pool2d", &cuda::pool2d, "problem", "x", "y");
  def_launch(m, "adaptive_avg_pool2d", &cuda::adaptive_avg_pool2d, "problem", "x", "y");
  def_launch(m, "subsample2d", &cuda::subsample2d, "problem", "x", "coefficient", "bias", "y");
  def_launch(m, "copy_slice", &cuda::copy_slice, "problem", "x", "y");
  def_launch(m, "add_relu", &cuda::add_relu, "problem", "a", "b", "y");
  def_launch(m, "rbf", &cuda::rbf, "problem", "x", "centers", "y");
}

}  // namespace fastcnn::python

#ifdef FASTCNN_EMULATED
// Its problem structs are those of fastcnn._C, imported beforehand.
PYBIND11_MODULE(_emulated, m) { fastcnn::python::bind_cuda(m.def_submodule("cuda")); }
#endif
