// pybind11 is here and in python/bind_*.cpp alone. Python passes addresses, a problem struct, and a thread
// count or a stream; nothing here or below knows about torch, so one binary serves every torch version.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <tuple>

#include "base/problem.h"
#include "cpu/caches.h"
#include "cpu/isa.h"
#include "ops/add_relu/add_relu_cpu.h"
#include "ops/batch_norm/batch_norm_cpu.h"
#include "ops/bias_activation/bias_activation_gradient_cpu.h"
#include "ops/concat/concat_cpu.h"
#include "ops/conv2d/conv2d_cpu.h"
#include "ops/conv2d/weight_gradient_cpu.h"
#include "ops/elementwise/elementwise_cpu.h"
#include "ops/layout/layout_cpu.h"
#include "ops/linear/linear_cpu.h"
#include "ops/lrn/lrn_cpu.h"
#include "ops/lrn/lrn_gradient_cpu.h"
#include "ops/pool/pool_cpu.h"
#include "ops/pool/pool_gradient_cpu.h"
#include "ops/rbf/rbf_cpu.h"
#include "ops/subsample2d/subsample2d_cpu.h"
#include "ops/subsample2d/subsample2d_gradient_cpu.h"
#include "plan/plan.h"
#include "python/bind_int8.h"
#include "python/call.h"
#include "python/place.h"

#if defined(FASTCNN_WITH_CUDA) || defined(FASTCNN_EMULATED)
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
#endif

namespace py = pybind11;
using namespace fastcnn;

namespace {

// Fields are zero until Python sets them; fastcnn/core/native.py
// fills each struct from a problem of the same names.
void bind_problems(py::module_& m) {
  py::enum_<DType>(m, "DType")
      .value("float32", DType::float32)
      .value("float16", DType::float16)
      .value("bfloat16", DType::bfloat16);
  py::enum_<Activation> activation(m, "Activation");
  py::enum_<Elementwise> elementwise(m, "Elementwise");
#define FASTCNN_ROW(name, number, increasing, cpu, gpu) \
  activation.value(#name, Activation::name);            \
  elementwise.value(#name, Elementwise::name);
  FASTCNN_ACTIVATIONS(FASTCNN_ROW)
#undef FASTCNN_ROW
  elementwise.value("add", Elementwise::add).value("scale_channels", Elementwise::scale_channels);
  m.def("is_increasing", &is_increasing, py::arg("activation"), "Whether it keeps order.");
  py::enum_<PoolMode>(m, "PoolMode").value("max", PoolMode::max).value("average", PoolMode::average);

  py::class_<Conv2dProblem>(m, "Conv2dProblem")
      .def(py::init([] { return Conv2dProblem{}; }))
      .def_readwrite("dtype", &Conv2dProblem::dtype)
      .def_readwrite("activation", &Conv2dProblem::activation)
      .def_readwrite("has_bias", &Conv2dProblem::has_bias)
      .def_readwrite("has_residual", &Conv2dProblem::has_residual)
      .def_readwrite("N", &Conv2dProblem::N)
      .def_readwrite("H", &Conv2dProblem::H)
      .def_readwrite("W", &Conv2dProblem::W)
      .def_readwrite("C", &Conv2dProblem::C)
      .def_readwrite("K", &Conv2dProblem::K)
      .def_readwrite("R", &Conv2dProblem::R)
      .def_readwrite("S", &Conv2dProblem::S)
      .def_readwrite("P", &Conv2dProblem::P)
      .def_readwrite("Q", &Conv2dProblem::Q)
      .def_readwrite("stride_h", &Conv2dProblem::stride_h)
      .def_readwrite("stride_w", &Conv2dProblem::stride_w)
      .def_readwrite("pad_h", &Conv2dProblem::pad_h)
      .def_readwrite("pad_w", &Conv2dProblem::pad_w)
      .def_readwrite("dilation_h", &Conv2dProblem::dilation_h)
      .def_readwrite("dilation_w", &Conv2dProblem::dilation_w)
      .def_readwrite("groups", &Conv2dProblem::groups)
      .def_readwrite("x_stride", &Conv2dProblem::x_stride)
      .def_readwrite("y_stride", &Conv2dProblem::y_stride)
      .def_readwrite("residual_stride", &Conv2dProblem::residual_stride);
  py::class_<Pool2dProblem>(m, "Pool2dProblem")
      .def(py::init([] { return Pool2dProblem{}; }))
      .def_readwrite("dtype", &Pool2dProblem::dtype)
      .def_readwrite("mode", &Pool2dProblem::mode)
      .def_readwrite("N", &Pool2dProblem::N)
      .def_readwrite("H", &Pool2dProblem::H)
      .def_readwrite("W", &Pool2dProblem::W)
      .def_readwrite("C", &Pool2dProblem::C)
      .def_readwrite("P", &Pool2dProblem::P)
      .def_readwrite("Q", &Pool2dProblem::Q)
      .def_readwrite("kernel_h", &Pool2dProblem::kernel_h)
      .def_readwrite("kernel_w", &Pool2dProblem::kernel_w)
      .def_readwrite("stride_h", &Pool2dProblem::stride_h)
      .def_readwrite("stride_w", &Pool2dProblem::stride_w)
      .def_readwrite("pad_h", &Pool2dProblem::pad_h)
      .def_readwrite("pad_w", &Pool2dProblem::pad_w)
      .def_readwrite("dilation_h", &Pool2dProblem::dilation_h)
      .def_readwrite("dilation_w", &Pool2dProblem::dilation_w)
      .def_readwrite("count_include_pad", &Pool2dProblem::count_include_pad)
      .def_readwrite("divisor_override", &Pool2dProblem::divisor_override)
      .def_readwrite("x_stride", &Pool2dProblem::x_stride)
      .def_readwrite("y_stride", &Pool2dProblem::y_stride);
  py::class_<AdaptiveAvgPool2dProblem>(m, "AdaptiveAvgPool2dProblem")
      .def(py::init([] { return AdaptiveAvgPool2dProblem{}; }))
      .def_readwrite("dtype", &AdaptiveAvgPool2dProblem::dtype)
      .def_readwrite("N", &AdaptiveAvgPool2dProblem::N)
      .def_readwrite("H", &AdaptiveAvgPool2dProblem::H)
      .def_readwrite("W", &AdaptiveAvgPool2dProblem::W)
      .def_readwrite("C", &AdaptiveAvgPool2dProblem::C)
      .def_readwrite("P", &AdaptiveAvgPool2dProblem::P)
      .def_readwrite("Q", &AdaptiveAvgPool2dProblem::Q)
      .def_readwrite("x_stride", &AdaptiveAvgPool2dProblem::x_stride)
      .def_readwrite("y_stride", &AdaptiveAvgPool2dProblem::y_stride);
  py::class_<LrnProblem>(m, "LrnProblem")
      .def(py::init([] { return LrnProblem{}; }))
      .def_readwrite("dtype", &LrnProblem::dtype)
      .def_readwrite("pixels", &LrnProblem::pixels)
      .def_readwrite("C", &LrnProblem::C)
      .def_readwrite("size", &LrnProblem::size)
      .def_readwrite("alpha", &LrnProblem::alpha)
      .def_readwrite("beta", &LrnProblem::beta)
      .def_readwrite("k", &LrnProblem::k)
      .def_readwrite("x_stride", &LrnProblem::x_stride)
      .def_readwrite("y_stride", &LrnProblem::y_stride);
  py::class_<Subsample2dProblem>(m, "Subsample2dProblem")
      .def(py::init([] { return Subsample2dProblem{}; }))
      .def_readwrite("dtype", &Subsample2dProblem::dtype)
      .def_readwrite("activation", &Subsample2dProblem::activation)
      .def_readwrite("N", &Subsample2dProblem::N)
      .def_readwrite("H", &Subsample2dProblem::H)
      .def_readwrite("W", &Subsample2dProblem::W)
      .def_readwrite("C", &Subsample2dProblem::C)
      .def_readwrite("P", &Subsample2dProblem::P)
      .def_readwrite("Q", &Subsample2dProblem::Q)
      .def_readwrite("kernel_size", &Subsample2dProblem::kernel_size)
      .def_readwrite("x_stride", &Subsample2dProblem::x_stride)
      .def_readwrite("y_stride", &Subsample2dProblem::y_stride);
  py::class_<BiasActivationProblem>(m, "BiasActivationProblem")
      .def(py::init([] { return BiasActivationProblem{}; }))
      .def_readwrite("dtype", &BiasActivationProblem::dtype)
      .def_readwrite("activation", &BiasActivationProblem::activation)
      .def_readwrite("pixels", &BiasActivationProblem::pixels)
      .def_readwrite("C", &BiasActivationProblem::C)
      .def_readwrite("dy_stride", &BiasActivationProblem::dy_stride)
      .def_readwrite("y_stride", &BiasActivationProblem::y_stride);
  py::class_<BatchNormProblem>(m, "BatchNormProblem")
      .def(py::init([] { return BatchNormProblem{}; }))
      .def_readwrite("dtype", &BatchNormProblem::dtype)
      .def_readwrite("relu", &BatchNormProblem::relu)
      .def_readwrite("has_residual", &BatchNormProblem::has_residual)
      .def_readwrite("pixels", &BatchNormProblem::pixels)
      .def_readwrite("C", &BatchNormProblem::C)
      .def_readwrite("eps", &BatchNormProblem::eps)
      .def_readwrite("momentum", &BatchNormProblem::momentum)
      .def_readwrite("x_stride", &BatchNormProblem::x_stride)
      .def_readwrite("residual_stride", &BatchNormProblem::residual_stride)
      .def_readwrite("dy_stride", &BatchNormProblem::dy_stride);
  py::class_<CopySliceProblem>(m, "CopySliceProblem")
      .def(py::init([] { return CopySliceProblem{}; }))
      .def_readwrite("element_size", &CopySliceProblem::element_size)
      .def_readwrite("pixels", &CopySliceProblem::pixels)
      .def_readwrite("C", &CopySliceProblem::C)
      .def_readwrite("x_stride", &CopySliceProblem::x_stride)
      .def_readwrite("y_stride", &CopySliceProblem::y_stride);
  py::class_<AddReluProblem>(m, "AddReluProblem")
      .def(py::init([] { return AddReluProblem{}; }))
      .def_readwrite("dtype", &AddReluProblem::dtype)
      .def_readwrite("pixels", &AddReluProblem::pixels)
      .def_readwrite("C", &AddReluProblem::C)
      .def_readwrite("a_stride", &AddReluProblem::a_stride)
      .def_readwrite("b_stride", &AddReluProblem::b_stride)
      .def_readwrite("y_stride", &AddReluProblem::y_stride);
  py::class_<LinearProblem>(m, "LinearProblem")
      .def(py::init([] { return LinearProblem{}; }))
      .def_readwrite("dtype", &LinearProblem::dtype)
      .def_readwrite("weight_dtype", &LinearProblem::weight_dtype)
      .def_readwrite("activation", &LinearProblem::activation)
      .def_readwrite("has_bias", &LinearProblem::has_bias)
      .def_readwrite("N", &LinearProblem::N)
      .def_readwrite("D", &LinearProblem::D)
      .def_readwrite("M", &LinearProblem::M)
      .def_readwrite("x_stride", &LinearProblem::x_stride)
      .def_readwrite("weight_stride", &LinearProblem::weight_stride)
      .def_readwrite("y_stride", &LinearProblem::y_stride);
  py::class_<RbfProblem>(m, "RbfProblem")
      .def(py::init([] { return RbfProblem{}; }))
      .def_readwrite("dtype", &RbfProblem::dtype)
      .def_readwrite("N", &RbfProblem::N)
      .def_readwrite("D", &RbfProblem::D)
      .def_readwrite("M", &RbfProblem::M)
      .def_readwrite("x_stride", &RbfProblem::x_stride)
      .def_readwrite("y_stride", &RbfProblem::y_stride);
  py::class_<ElementwiseProblem>(m, "ElementwiseProblem")
      .def(py::init([] { return ElementwiseProblem{}; }))
      .def_readwrite("dtype", &ElementwiseProblem::dtype)
      .def_readwrite("function", &ElementwiseProblem::function)
      .def_readwrite("pixels", &ElementwiseProblem::pixels)
      .def_readwrite("C", &ElementwiseProblem::C)
      .def_readwrite("a_stride", &ElementwiseProblem::a_stride)
      .def_readwrite("b_stride", &ElementwiseProblem::b_stride)
      .def_readwrite("y_stride", &ElementwiseProblem::y_stride)
      .def_readwrite("pixels_per_image", &ElementwiseProblem::pixels_per_image);
  py::class_<LayoutProblem>(m, "LayoutProblem")
      .def(py::init([] { return LayoutProblem{}; }))
      .def_readwrite("element_size", &LayoutProblem::element_size)
      .def_readwrite("N", &LayoutProblem::N)
      .def_readwrite("H", &LayoutProblem::H)
      .def_readwrite("W", &LayoutProblem::W)
      .def_readwrite("C", &LayoutProblem::C)
      .def_readwrite("pixel_stride", &LayoutProblem::pixel_stride);
}

using Address = uintptr_t;
template <class T = void>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

#if defined(FASTCNN_WITH_CUDA) || defined(FASTCNN_EMULATED)

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
      "\"\" if the plan can run the problem, else why not.");
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
  m.def(
      "conv2d_max_pool2d",
      [](const Conv2dProblem& conv, const Pool2dProblem& pool, const cuda::Conv2dMaxPool2dPlan& plan,
         Address x, Address weight, Address bias, Address y, Address stream) {
        check(cuda::conv2d_max_pool2d(conv, pool, plan, at(x), at(weight), at(bias), at(y), at(stream)));
      },
      py::arg("conv"), py::arg("pool"), py::arg("plan"), py::arg("x"), py::arg("weight"), py::arg("bias"),
      py::arg("y"), py::arg("stream") = 0);
  m.def(
      "lrn",
      [](const LrnProblem& p, Address x, Address y, Address stream) {
        check(cuda::lrn(p, at(x), at(y), at(stream)));
      },
      py::arg("problem"), py::arg("x"), py::arg("y"), py::arg("stream") = 0);
  m.def(
      "lrn_max_pool",
      [](const LrnProblem& p, const Pool2dProblem& pool, Address x, Address y, Address stream) {
        check(cuda::lrn_max_pool(p, pool, at(x), at(y), at(stream)));
      },
      py::arg("lrn"), py::arg("pool"), py::arg("x"), py::arg("y"), py::arg("stream") = 0);
  m.def(
      "pool2d",
      [](const Pool2dProblem& p, Address x, Address y, Address stream) {
        check(cuda::pool2d(p, at(x), at(y), at(stream)));
      },
      py::arg("problem"), py::arg("x"), py::arg("y"), py::arg("stream") = 0);
  m.def(
      "adaptive_avg_pool2d",
      [](const AdaptiveAvgPool2dProblem& p, Address x, Address y, Address stream) {
        check(cuda::adaptive_avg_pool2d(p, at(x), at(y), at(stream)));
      },
      py::arg("problem"), py::arg("x"), py::arg("y"), py::arg("stream") = 0);
  m.def(
      "subsample2d",
      [](const Subsample2dProblem& p, Address x, Address coefficient, Address bias, Address y,
         Address stream) {
        check(cuda::subsample2d(p, at(x), at(coefficient), at(bias), at(y), at(stream)));
      },
      py::arg("problem"), py::arg("x"), py::arg("coefficient"), py::arg("bias"), py::arg("y"),
      py::arg("stream") = 0);
  m.def(
      "copy_slice",
      [](const CopySliceProblem& p, Address x, Address y, Address stream) {
        check(cuda::copy_slice(p, at(x), at(y), at(stream)));
      },
      py::arg("problem"), py::arg("x"), py::arg("y"), py::arg("stream") = 0);
  m.def(
      "add_relu",
      [](const AddReluProblem& p, Address a, Address b, Address y, Address stream) {
        check(cuda::add_relu(p, at(a), at(b), at(y), at(stream)));
      },
      py::arg("problem"), py::arg("a"), py::arg("b"), py::arg("y"), py::arg("stream") = 0);
  m.def(
      "rbf",
      [](const RbfProblem& p, Address x, Address centers, Address y, Address stream) {
        check(cuda::rbf(p, at(x), at(centers), at(y), at(stream)));
      },
      py::arg("problem"), py::arg("x"), py::arg("centers"), py::arg("y"), py::arg("stream") = 0);
}

#endif

using Addresses = void* const*;

// What csrc/python/call.h calls a call.
py::object bound(Py_ssize_t inputs, py::handle output, std::function<void(Addresses)> run) {
  auto call = py::reinterpret_steal<py::object>(python::call(inputs, output.ptr(), std::move(run)));
  if (!call) throw py::error_already_set();
  return call;
}

void bind_cpu(py::module_ m) {
  m.doc() = "CPU kernels. Addresses are ints, 0 where there is none; every kernel releases the GIL.";
  m.def("isa", [] { return isa_name(isa()); });
  m.def("set_isa", &set_isa,
        "For tests: \"avx512\", \"avx2\" or \"baseline\"; packed weights must be packed again.");
  m.def(
      "caches", [] { return std::make_tuple(caches().l1, caches().l2, caches().l3); },
      "Bytes of the first, second and third level.");
  m.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (Isa isa : {Isa::avx512, Isa::avx2, Isa::baseline})
          if (isa_available(isa)) names.push_back(isa_name(isa));
        return names;
      },
      "What this processor can run, best first.");

  // Each of these binds a kernel to its problem.
  const py::arg threads("threads");
  const py::arg_v output("output", py::none());
  m.def(
      "concat",
      [=](const std::vector<CopySliceProblem>& slices, int threads, py::handle output) {
        if (slices.empty()) throw std::invalid_argument("concat: no slices; at least one is needed");
        const auto count = static_cast<Py_ssize_t>(slices.size());
        return bound(count, output, [=](Addresses a) {
          FASTCNN_SELECT(concat)(slices.data(), a, count, a[count], threads);
        });
      },
      py::arg("slices"), threads, output);
  m.def(
      "add_relu",
      [=](const AddReluProblem& problem, int threads, py::handle output) {
        return bound(2, output,
                     [=](Addresses a) { FASTCNN_SELECT(add_relu)(problem, a[0], a[1], a[2], threads); });
      },
      py::arg("problem"), threads, output);
  m.def(
      "pool2d",
      [=](const Pool2dProblem& problem, int threads, py::handle output) {
        return bound(1, output, [=](Addresses a) { FASTCNN_SELECT(pool2d)(problem, a[0], a[1], threads); });
      },
      py::arg("problem"), threads, output);
  m.def(
      "adaptive_avg_pool2d",
      [=](const AdaptiveAvgPool2dProblem& problem, int threads, py::handle output) {
        return bound(1, output,
                     [=](Addresses a) { FASTCNN_SELECT(adaptive_avg_pool2d)(problem, a[0], a[1], threads); });
      },
      py::arg("problem"), threads, output);
  m.def(
      "lrn",
      [=](const LrnProblem& problem, int threads, py::handle output) {
        return bound(1, output, [=](Addresses a) { FASTCNN_SELECT(lrn)(problem, a[0], a[1], threads); });
      },
      py::arg("problem"), threads, output);
  m.def(
      "lrn_max_pool2d",
      [=](const LrnProblem& lrn, const Pool2dProblem& pool, int threads, py::handle output) {
        return bound(1, output,
                     [=](Addresses a) { FASTCNN_SELECT(lrn_max_pool2d)(lrn, pool, a[0], a[1], threads); });
      },
      py::arg("lrn"), py::arg("pool"), threads, output);
  m.def(
      "subsample2d",
      [=](const Subsample2dProblem& problem, int threads, py::handle output) {
        return bound(3, output, [=](Addresses a) {
          FASTCNN_SELECT(subsample2d)(problem, a[0], static_cast<float*>(a[1]), static_cast<float*>(a[2]),
                                      a[3], threads);
        });
      },
      py::arg("problem"), threads, output);
  m.def(
      "linear",
      [=](const LinearProblem& problem, int threads, py::handle output) {
        return bound(3, output, [=](Addresses a) {
          linear(problem, a[0], a[1], static_cast<float*>(a[2]), a[3], threads);
        });
      },
      py::arg("problem"), threads, output);
  m.def(
      "rbf",
      [=](const RbfProblem& problem, int threads, py::handle output) {
        return bound(2, output, [=](Addresses a) {
          FASTCNN_SELECT(rbf)(problem, a[0], static_cast<float*>(a[1]), a[2], threads);
        });
      },
      py::arg("problem"), threads, output);

  using Release = py::call_guard<py::gil_scoped_release>;
  m.def(
      "elementwise",
      [](const ElementwiseProblem& problem, Address a, Address b, Address y, int threads) {
        FASTCNN_SELECT(elementwise)(problem, at(a), at(b), at(y), threads);
      },
      Release());
  m.def(
      "to_channels_last",
      [](const LayoutProblem& problem, Address x, Address y, int threads) {
        to_channels_last(problem, at(x), at(y), threads);
      },
      Release());
  m.def(
      "to_channels_first",
      [](const LayoutProblem& problem, Address x, Address y, int threads) {
        to_channels_first(problem, at(x), at(y), threads);
      },
      Release());
}

// Training: kernels of several outputs, whose tensors all come from the caller.
void bind_cpu_gradients(py::module_& m) {
  const py::arg problem("problem"), threads("threads");
  m.def(
      "conv2d_weight_gradient",
      [](const Conv2dProblem& problem, bool contiguous, int threads, bool winograd) {
        if (winograd && ((problem.R != 3 && problem.R != 5) || problem.S != problem.R))
          throw std::invalid_argument("conv2d_weight_gradient: winograd needs a 3x3 or 5x5 kernel");
        return bound(2, py::none(), [=](Addresses a) {
          (winograd ? FASTCNN_SELECT(winograd_weight_gradient) : FASTCNN_SELECT(conv2d_weight_gradient))(
              problem, a[0], a[1], static_cast<float*>(a[2]), contiguous, threads);
        });
      },
      problem, py::arg("contiguous"), threads, py::arg("winograd") = false, "(x, dy, dw)");
  m.def(
      "bias_activation_gradient",
      [](const BiasActivationProblem& problem, int threads) {
        return bound(3, py::none(), [=](Addresses a) {
          FASTCNN_SELECT(bias_activation_gradient)
          (problem, a[0], a[1], a[2], static_cast<float*>(a[3]), threads);
        });
      },
      problem, threads, "(dy, y, dz, db)");
  m.def(
      "lrn_gradient",
      [](const LrnProblem& problem, int threads) {
        return bound(2, py::none(),
                     [=](Addresses a) { FASTCNN_SELECT(lrn_gradient)(problem, a[0], a[1], a[2], threads); });
      },
      problem, threads, "(x, dy, dx)");
  m.def(
      "max_pool2d_taps",
      [](const Pool2dProblem& problem, int threads) {
        return bound(2, py::none(), [=](Addresses a) {
          FASTCNN_SELECT(max_pool2d_taps)(problem, a[0], a[1], static_cast<uint8_t*>(a[2]), threads);
        });
      },
      problem, threads, "(x, y, taps)");
  m.def(
      "pool2d_gradient",
      [](const Pool2dProblem& problem, int threads) {
        return bound(2, py::none(), [=](Addresses a) {
          FASTCNN_SELECT(pool2d_gradient)(problem, static_cast<uint8_t*>(a[0]), a[1], a[2], threads);
        });
      },
      problem, threads, "(taps, dy, dx)");
  m.def(
      "adaptive_avg_pool2d_gradient",
      [](const AdaptiveAvgPool2dProblem& problem, int threads) {
        return bound(1, py::none(), [=](Addresses a) {
          FASTCNN_SELECT(adaptive_avg_pool2d_gradient)(problem, a[0], a[1], threads);
        });
      },
      problem, threads, "(dy, dx)");
  m.def(
      "subsample2d_gradient",
      [](const Subsample2dProblem& problem, int threads) {
        return bound(4, py::none(), [=](Addresses a) {
          FASTCNN_SELECT(subsample2d_gradient)
          (problem, a[0], static_cast<float*>(a[1]), a[2], a[3], static_cast<float*>(a[4]), threads);
        });
      },
      problem, threads, "(x, coefficient, dy, dx, dcoefficient)");
  auto norm = [](Addresses a) {
    auto floats = [=](int i) { return static_cast<float*>(a[i]); };
    return BatchNormPointers{a[0],      floats(1), floats(2), a[3], floats(4),
                             floats(5), floats(6), floats(7), a[8]};
  };
  m.def(
      "batch_norm",
      [=](const BatchNormProblem& problem, int threads) {
        return bound(8, py::none(),
                     [=](Addresses a) { FASTCNN_SELECT(batch_norm)(problem, norm(a), threads); });
      },
      problem, threads, "(x, weight, bias, residual, running_mean, running_var, mean, inv_std, y)");
  m.def(
      "batch_norm_gradient",
      [=](const BatchNormProblem& problem, int threads) {
        return bound(13, py::none(), [=](Addresses a) {
          const BatchNormGradients gradients{a[9], a[10], a[11], static_cast<float*>(a[12]),
                                             static_cast<float*>(a[13])};
          FASTCNN_SELECT(batch_norm_gradient)(problem, norm(a), gradients, threads);
        });
      },
      problem, threads,
      "(x, weight, bias, residual, None, None, mean, inv_std, y, dy, dx, dresidual, dweight, dbias)");
}

void bind_cpu_conv2d(py::module_& m) {
  m.def("conv2d_algorithms", &conv2d_algorithms, "All of them, best first.");
  m.def("conv2d_reason", &conv2d_reason, py::arg("name"), py::arg("problem"), py::arg("threads"),
        "\"\" if the algorithm takes the problem, else why not.");
  m.def("set_winograd_tolerance", &set_winograd_tolerance, py::arg("tolerance"),
        "The largest relative L2 error that a Winograd algorithm may have to be chosen; 0 forbids them.");
  m.def("winograd_tolerance", &winograd_tolerance);
  py::enum_<WeightForm>(m, "WeightForm")
      .value("packed", WeightForm::packed)
      .value("contiguous", WeightForm::contiguous)
      .value("channels_last", WeightForm::channels_last)
      .value("flipped_contiguous", WeightForm::flipped_contiguous)
      .value("flipped_channels_last", WeightForm::flipped_channels_last);
  py::class_<Conv2d>(m, "Conv2d")
      .def(py::init<const Conv2dProblem&, const std::string&, bool>(), py::arg("problem"), py::arg("name"),
           py::arg("max_pool") = false)
      .def_property_readonly("packed_bytes", &Conv2d::packed_bytes)
      .def(
          "pack",
          [](const Conv2d& self, Address weight, Address packed, WeightForm form, int threads) {
            self.pack(at<float>(weight), form, at(packed), threads);
          },
          py::call_guard<py::gil_scoped_release>(), py::arg("weight"), py::arg("packed"),
          py::arg("form") = WeightForm::contiguous, py::arg("threads") = 1)
      .def(
          "bound",
          [](const py::object& self, int threads, py::handle output, WeightForm form) {
            return bound(4, output, [self, &conv = self.cast<const Conv2d&>(), threads, form](Addresses a) {
              conv.run(a[0], a[1], form, static_cast<float*>(a[2]), a[3], a[4], threads);
            });
          },
          py::arg("threads"), py::arg("output") = py::none(), py::arg("form") = WeightForm::packed);
}

void bind_plan(py::module_& m) {
  using Given = py::object;
  using In = python::PlaceArgument;
  py::class_<Plan>(
      m, "Plan",
      "A network as one native call: operations over one arena (csrc/plan/plan.h). Tensors are\n"
      "(buffer, byte offset), or a buffer alone. Constants are addresses, kept alive by the caller.")
      .def(py::init())
      .def("buffer", &Plan::buffer, py::arg("bytes"))
      .def("input", &Plan::input, py::arg("bytes"))
      .def("output", &Plan::output, py::arg("bytes"))
      .def(
          "conv2d",
          [](Plan& self, const Conv2d& conv, const Given& x, Address weight, WeightForm form, Address bias,
             const Given& residual, const Given& y) {
            self.conv2d(conv, In(x), at(weight), form, at<float>(bias), In(residual), In(y));
          },
          py::arg("conv"), py::arg("x"), py::arg("weight"), py::arg("form"), py::arg("bias"),
          py::arg("residual"), py::arg("y"))
      .def(
          "linear",
          [](Plan& self, const LinearProblem& problem, const Given& x, Address weight, Address bias,
             const Given& y) { self.linear(problem, In(x), at(weight), at<float>(bias), In(y)); },
          py::arg("problem"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("y"))
      .def("pool2d", [](Plan& self, const Pool2dProblem& problem, const Given& x,
                        const Given& y) { self.pool2d(problem, In(x), In(y)); })
      .def("adaptive_avg_pool2d", [](Plan& self, const AdaptiveAvgPool2dProblem& problem, const Given& x,
                                     const Given& y) { self.adaptive_avg_pool2d(problem, In(x), In(y)); })
      .def("lrn", [](Plan& self, const LrnProblem& problem, const Given& x,
                     const Given& y) { self.lrn(problem, In(x), In(y)); })
      .def("lrn_max_pool2d",
           [](Plan& self, const LrnProblem& problem, const Pool2dProblem& pool, const Given& x,
              const Given& y) { self.lrn_max_pool2d(problem, pool, In(x), In(y)); })
      .def("subsample2d",
           [](Plan& self, const Subsample2dProblem& problem, const Given& x, Address coefficient,
              Address bias, const Given& y) {
             self.subsample2d(problem, In(x), at<float>(coefficient), at<float>(bias), In(y));
           })
      .def("copy_slice", [](Plan& self, const CopySliceProblem& problem, const Given& x,
                            const Given& y) { self.copy_slice(problem, In(x), In(y)); })
      .def("add_relu", [](Plan& self, const AddReluProblem& problem, const Given& a, const Given& b,
                          const Given& y) { self.add_relu(problem, In(a), In(b), In(y)); })
      .def("elementwise", [](Plan& self, const ElementwiseProblem& problem, const Given& a, const Given& b,
                             const Given& y) { self.elementwise(problem, In(a), In(b), In(y)); })
      .def("rbf", [](Plan& self, const RbfProblem& problem, const Given& x, Address centers,
                     const Given& y) { self.rbf(problem, In(x), at<float>(centers), In(y)); })
      .def("to_channels_last", [](Plan& self, const LayoutProblem& problem, const Given& x,
                                  const Given& y) { self.to_channels_last(problem, In(x), In(y)); })
      .def("to_channels_first", [](Plan& self, const LayoutProblem& problem, const Given& x,
                                   const Given& y) { self.to_channels_first(problem, In(x), In(y)); })
      .def("finalize", &Plan::finalize, py::arg("slices") = 1,
           "Places the buffers; from here on the plan may run, and may not change. With slices, inputs and\n"
           "outputs are so many times as long, and run() needs an arena for each thread.")
      .def_property_readonly("arena_bytes", &Plan::arena_bytes)
      .def(
          "run",
          [](const Plan& self, const std::vector<Address>& inputs, const std::vector<Address>& outputs,
             Address arena, int threads, bool alone) {
            std::vector<void*> from, to;
            for (Address address : inputs) from.push_back(at(address));
            for (Address address : outputs) to.push_back(at(address));
            self.run(from, to, at(arena), threads, alone);
          },
          py::call_guard<py::gil_scoped_release>(), py::arg("inputs"), py::arg("outputs"), py::arg("arena"),
          py::arg("threads"), py::arg("alone") = false)
      .def(
          "describe",
          [](const Plan& self) {
            py::list rows;
            for (const Plan::Description& row : self.describe())
              rows.append(py::make_tuple(row.op, row.kernel, row.shape, row.gflop, row.bytes));
            return rows;
          },
          "(op, kernel, shapes, GFLOP, bytes) of every operation.");
}

}  // namespace

#ifdef FASTCNN_EMULATED
// The CUDA kernels on the emulator, for tests. Its problem
// structs are those of fastcnn._C, imported beforehand.
PYBIND11_MODULE(_emulated, m) { bind_cuda(m.def_submodule("cuda")); }
#else
PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of fastcnn";
  isa();  // a wrong FASTCNN_CPU_ISA fails here, before any type is registered, so that a second import says
          // the same
  bind_problems(m);
  if (python::add_functions(m.ptr())) throw py::error_already_set();
  auto cpu = m.def_submodule("cpu");
  bind_cpu(cpu);
  bind_cpu_conv2d(cpu);
  bind_cpu_gradients(cpu);
  bind_plan(cpu);
  python::bind_int8(m, cpu);
  m.def("build_info", [] {
    return py::dict(py::arg("version") = FASTCNN_VERSION, py::arg("compiler") = FASTCNN_COMPILER,
                    py::arg("cuda") = FASTCNN_CUDA_BUILD);
  });
#ifdef FASTCNN_WITH_CUDA
  bind_cuda(m.def_submodule("cuda"));
#endif
}
#endif
