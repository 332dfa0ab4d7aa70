#include "python/bind_int8.h"

#include <pybind11/stl.h>

#include "ops/conv2d_int8/conv2d_int8.h"
#include "ops/int8/int8_cpu.h"
#include "python/call.h"
#include "python/place.h"

namespace fastcnn::python {
namespace {

namespace py = pybind11;
using Addresses = void* const*;

template <class T>
const T* from(Addresses a, int i) {
  return static_cast<const T*>(a[i]);
}

py::object bound(Py_ssize_t inputs, py::handle output, std::function<void(Addresses)> run) {
  auto call = py::reinterpret_steal<py::object>(python::call(inputs, output.ptr(), std::move(run)));
  if (!call) throw py::error_already_set();
  return call;
}

template <class Problem>
struct Fields {
  py::class_<Problem> type;
  template <class T>
  Fields& operator()(const char* name, T Problem::* field) {
    type.def_readwrite(name, field);
    return *this;
  }
};

// Its fields are zero until Python sets them.
template <class Problem>
Fields<Problem> fields(py::module_& m, const char* name) {
  return {py::class_<Problem>(m, name).def(py::init([] { return Problem{}; }))};
}

#define FASTCNN_FIELD(name) (#name, &Problem::name)

void bind_problems(py::module_& m) {
  {
    using Problem = Int8Conv2dProblem;
    fields<Problem>(m, "Int8Conv2dProblem") FASTCNN_FIELD(has_residual) FASTCNN_FIELD(float_output)
        FASTCNN_FIELD(relu) FASTCNN_FIELD(N) FASTCNN_FIELD(H) FASTCNN_FIELD(W) FASTCNN_FIELD(C)
            FASTCNN_FIELD(K) FASTCNN_FIELD(R) FASTCNN_FIELD(S) FASTCNN_FIELD(P) FASTCNN_FIELD(Q)
                FASTCNN_FIELD(stride_h) FASTCNN_FIELD(stride_w) FASTCNN_FIELD(pad_h) FASTCNN_FIELD(pad_w)
                    FASTCNN_FIELD(dilation_h) FASTCNN_FIELD(dilation_w) FASTCNN_FIELD(groups)
                        FASTCNN_FIELD(x_stride) FASTCNN_FIELD(y_stride) FASTCNN_FIELD(residual_stride)
                            FASTCNN_FIELD(x_zero) FASTCNN_FIELD(y_zero) FASTCNN_FIELD(residual_zero)
                                FASTCNN_FIELD(low) FASTCNN_FIELD(high) FASTCNN_FIELD(residual_scale);
  }
  {
    using Problem = QuantizeProblem;
    fields<Problem>(m, "QuantizeProblem") FASTCNN_FIELD(N) FASTCNN_FIELD(pixels) FASTCNN_FIELD(C)
        FASTCNN_FIELD(x_image) FASTCNN_FIELD(x_stride) FASTCNN_FIELD(x_channel) FASTCNN_FIELD(y_stride)
            FASTCNN_FIELD(inverse_scale) FASTCNN_FIELD(zero);
  }
  {
    using Problem = DequantizeProblem;
    fields<Problem>(m, "DequantizeProblem") FASTCNN_FIELD(pixels) FASTCNN_FIELD(C) FASTCNN_FIELD(x_stride)
        FASTCNN_FIELD(y_stride) FASTCNN_FIELD(scale) FASTCNN_FIELD(zero);
  }
  {
    using Problem = ByteTableProblem;
    fields<Problem>(m, "ByteTableProblem") FASTCNN_FIELD(pixels) FASTCNN_FIELD(C) FASTCNN_FIELD(x_stride)
        FASTCNN_FIELD(y_stride);
  }
  {
    using Problem = Int8AddProblem;
    fields<Problem>(m, "Int8AddProblem") FASTCNN_FIELD(pixels) FASTCNN_FIELD(C) FASTCNN_FIELD(a_stride)
        FASTCNN_FIELD(b_stride) FASTCNN_FIELD(y_stride) FASTCNN_FIELD(a_scale) FASTCNN_FIELD(b_scale)
            FASTCNN_FIELD(a_zero) FASTCNN_FIELD(b_zero) FASTCNN_FIELD(y_zero) FASTCNN_FIELD(low)
                FASTCNN_FIELD(high);
  }
  {
    using Problem = Int8PoolProblem;
    fields<Problem>(m, "Int8PoolProblem") FASTCNN_FIELD(mode) FASTCNN_FIELD(N) FASTCNN_FIELD(H)
        FASTCNN_FIELD(W) FASTCNN_FIELD(C) FASTCNN_FIELD(P) FASTCNN_FIELD(Q) FASTCNN_FIELD(kernel_h)
            FASTCNN_FIELD(kernel_w) FASTCNN_FIELD(stride_h) FASTCNN_FIELD(stride_w) FASTCNN_FIELD(pad_h)
                FASTCNN_FIELD(pad_w) FASTCNN_FIELD(dilation_h) FASTCNN_FIELD(dilation_w)
                    FASTCNN_FIELD(count_include_pad) FASTCNN_FIELD(divisor_override) FASTCNN_FIELD(x_stride)
                        FASTCNN_FIELD(y_stride) FASTCNN_FIELD(scale) FASTCNN_FIELD(x_zero)
                            FASTCNN_FIELD(y_zero);
  }
}

std::string dims(std::initializer_list<int64_t> sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text;
}

// Bytes from the first to the last element of (pixels, C).
int64_t extent(int64_t pixels, int64_t C, int64_t stride, int64_t size = 1) {
  return pixels > 0 && C > 0 ? ((pixels - 1) * stride + C) * size : 0;
}

// The operations of a plan: methods of Plan, as in bindings.cpp.
void bind_plan(py::class_<Plan> plan) {
  using Given = py::object;
  using In = PlaceArgument;
  using Pointers = Plan::Pointers;
  plan.def("conv2d_int8", [](Plan& self, const Int8Conv2d& conv, const Given& x, uintptr_t packed,
                             const Given& residual, const Given& y) {
    const Int8Conv2dProblem& p = conv.problem();
    const int64_t outputs = p.N * p.P * p.Q;
    self.add({"conv2d_int8", conv.name(), dims({p.N, p.H, p.W, p.C}) + " * " + dims({p.K, p.R, p.S}),
              2e-9 * outputs * p.K * p.R * p.S * p.C / p.groups, conv.packed_bytes()},
             {{"x", In(x), extent(p.N * p.H * p.W, p.C, p.x_stride)},
              {"residual", In(residual), p.has_residual ? extent(outputs, p.K, p.residual_stride) : 0},
              {"y", In(y), extent(outputs, p.K, p.y_stride, p.float_output ? 4 : 1)}},
             [conv, packed](Pointers a, int threads) {
               conv.run(from<uint8_t>(a, 0), reinterpret_cast<const void*>(packed), from<uint8_t>(a, 1), a[2],
                        threads);
             });
  });
  plan.def("quantize", [](Plan& self, const QuantizeProblem& p, const Given& x, const Given& y) {
    const int64_t last = (p.N - 1) * p.x_image + (p.pixels - 1) * p.x_stride + (p.C - 1) * p.x_channel;
    self.add({"quantize", "quantize", dims({p.N, p.pixels, p.C}), 1e-9 * p.N * p.pixels * p.C, 0},
             {{"x", In(x), p.N * p.pixels * p.C > 0 ? 4 * last + 4 : 0},
              {"y", In(y), extent(p.N * p.pixels, p.C, p.y_stride)}},
             [p](Pointers a, int threads) {
               FASTCNN_SELECT(quantize)(p, from<float>(a, 0), static_cast<uint8_t*>(a[1]), threads);
             });
  });
  plan.def("dequantize", [](Plan& self, const DequantizeProblem& p, const Given& x, const Given& y) {
    self.add(
        {"dequantize", "dequantize", dims({p.pixels, p.C}), 1e-9 * p.pixels * p.C, 0},
        {{"x", In(x), extent(p.pixels, p.C, p.x_stride)}, {"y", In(y), extent(p.pixels, p.C, p.y_stride, 4)}},
        [p](Pointers a, int threads) {
          FASTCNN_SELECT(dequantize)(p, from<uint8_t>(a, 0), static_cast<float*>(a[1]), threads);
        });
  });
  plan.def("byte_table", [](Plan& self, const ByteTableProblem& p, const Given& x, uintptr_t table,
                            const Given& y) {
    self.add(
        {"byte_table", "byte_table", dims({p.pixels, p.C}), 1e-9 * p.pixels * p.C, 256},
        {{"x", In(x), extent(p.pixels, p.C, p.x_stride)}, {"y", In(y), extent(p.pixels, p.C, p.y_stride)}},
        [p, table](Pointers a, int threads) {
          FASTCNN_SELECT(byte_table)(p, from<uint8_t>(a, 0), reinterpret_cast<const uint8_t*>(table),
                                     static_cast<uint8_t*>(a[1]), threads);
        });
  });
  plan.def("int8_add",
           [](Plan& self, const Int8AddProblem& p, const Given& a, const Given& b, const Given& y) {
             self.add({"int8_add", "int8_add", dims({p.pixels, p.C}), 4e-9 * p.pixels * p.C, 0},
                      {{"a", In(a), extent(p.pixels, p.C, p.a_stride)},
                       {"b", In(b), extent(p.pixels, p.C, p.b_stride)},
                       {"y", In(y), extent(p.pixels, p.C, p.y_stride)}},
                      [p](Pointers at, int threads) {
                        FASTCNN_SELECT(int8_add)(p, from<uint8_t>(at, 0), from<uint8_t>(at, 1),
                                                 static_cast<uint8_t*>(at[2]), threads);
                      });
           });
  plan.def("int8_pool2d", [](Plan& self, const Int8PoolProblem& p, const Given& x, const Given& y) {
    self.add({p.mode == PoolMode::max ? "int8_max_pool2d" : "int8_avg_pool2d", "int8_pool2d",
              dims({p.N, p.H, p.W, p.C}) + " * " + dims({p.kernel_h, p.kernel_w}),
              1e-9 * p.N * p.P * p.Q * p.C * p.kernel_h * p.kernel_w, 0},
             {{"x", In(x), extent(p.N * p.H * p.W, p.C, p.x_stride)},
              {"y", In(y), extent(p.N * p.P * p.Q, p.C, p.y_stride)}},
             [p](Pointers a, int threads) {
               FASTCNN_SELECT(int8_pool2d)(p, from<uint8_t>(a, 0), static_cast<uint8_t*>(a[1]), threads);
             });
  });
}

}  // namespace

void bind_int8(py::module_& root, py::module_& cpu) {
  bind_problems(root);
  bind_plan(py::reinterpret_borrow<py::class_<Plan>>(cpu.attr("Plan")));
  const py::arg problem("problem"), threads("threads");
  const py::arg_v output("output", py::none());
  cpu.def("conv2d_int8_kernels", &conv2d_int8_kernels, "All of them, best first.");
  py::class_<Int8Conv2d>(cpu, "Int8Conv2d")
      .def(py::init<const Int8Conv2dProblem&, const std::string&>(), problem, py::arg("name") = "")
      .def_property_readonly("name", &Int8Conv2d::name)
      .def_property_readonly("packed_bytes", &Int8Conv2d::packed_bytes)
      .def(
          "pack",
          [](const Int8Conv2d& self, uintptr_t weight, uintptr_t bias, uintptr_t multiplier,
             uintptr_t packed) {
            self.pack(reinterpret_cast<const int8_t*>(weight), reinterpret_cast<const int32_t*>(bias),
                      reinterpret_cast<const float*>(multiplier), reinterpret_cast<void*>(packed));
          },
          py::call_guard<py::gil_scoped_release>(), py::arg("weight"), py::arg("bias"), py::arg("multiplier"),
          py::arg("packed"))
      .def(
          "bound",
          [](const py::object& self, int threads, py::handle output) {
            return bound(3, output, [self, &conv = self.cast<const Int8Conv2d&>(), threads](Addresses a) {
              conv.run(from<uint8_t>(a, 0), a[1], from<uint8_t>(a, 2), a[3], threads);
            });
          },
          threads, output, "A call of (x, packed, residual or None, y).");
  cpu.def(
      "quantize",
      [](const QuantizeProblem& p, int threads, py::handle output) {
        return bound(1, output, [=](Addresses a) {
          FASTCNN_SELECT(quantize)(p, from<float>(a, 0), static_cast<uint8_t*>(a[1]), threads);
        });
      },
      problem, threads, output);
  cpu.def(
      "dequantize",
      [](const DequantizeProblem& p, int threads, py::handle output) {
        return bound(1, output, [=](Addresses a) {
          FASTCNN_SELECT(dequantize)(p, from<uint8_t>(a, 0), static_cast<float*>(a[1]), threads);
        });
      },
      problem, threads, output);
  cpu.def(
      "byte_table",
      [](const ByteTableProblem& p, int threads, py::handle output) {
        return bound(2, output, [=](Addresses a) {
          FASTCNN_SELECT(byte_table)(p, from<uint8_t>(a, 0), from<uint8_t>(a, 1), static_cast<uint8_t*>(a[2]),
                                     threads);
        });
      },
      problem, threads, output);
  cpu.def(
      "int8_add",
      [](const Int8AddProblem& p, int threads, py::handle output) {
        return bound(2, output, [=](Addresses a) {
          FASTCNN_SELECT(int8_add)(p, from<uint8_t>(a, 0), from<uint8_t>(a, 1), static_cast<uint8_t*>(a[2]),
                                   threads);
        });
      },
      problem, threads, output);
  cpu.def(
      "int8_pool2d",
      [](const Int8PoolProblem& p, int threads, py::handle output) {
        return bound(1, output, [=](Addresses a) {
          FASTCNN_SELECT(int8_pool2d)(p, from<uint8_t>(a, 0), static_cast<uint8_t*>(a[1]), threads);
        });
      },
      problem, threads, output);
}

}  // namespace fastcnn::python
