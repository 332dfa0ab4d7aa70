#include "ops/conv2d_int8/conv2d_int8.h"
#include "python/bind.h"

namespace fastcnn {

Operation conv2d_int8_operation(const Int8Conv2d& conv) {
  const Int8Conv2dProblem& p = conv.problem();
  const int64_t outputs = p.N * p.P * p.Q;
  return {"conv2d_int8",
          conv.name(),
          dims({p.N, p.H, p.W, p.C}) + " * " + dims({p.K, p.R, p.S}),
          2e-9 * outputs * p.K * p.R * p.S * p.C / p.groups,
          conv.packed_bytes(),
          {tensor("x", p.N * p.H * p.W, p.C, p.x_stride, 1), constant("packed"),
           tensor("residual", p.has_residual ? outputs : 0, p.K, p.residual_stride, 1),
           tensor("y", outputs, p.K, p.y_stride, p.float_output ? 4 : 1)},
          [conv](Addresses a, int threads) {
            conv.run(static_cast<const uint8_t*>(a[0]), a[1], static_cast<const uint8_t*>(a[2]), a[3],
                     threads);
          }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, Int8Conv2dProblem, has_residual, float_output, relu, N, H, W, C, K, R, S, P, Q, stride_h,
                  stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, x_stride, y_stride, residual_stride,
                  x_zero, y_zero, residual_zero, low, high, residual_scale);
  m.cpu.def("conv2d_int8_kernels", &conv2d_int8_kernels, "All of them, best first.");
  py::class_<Int8Conv2d>(m.cpu, "Int8Conv2d")
      .def(py::init<const Int8Conv2dProblem&, const std::string&>(), py::arg("problem"), py::arg("name") = "")
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
          [](const Int8Conv2d& self, int threads, py::handle output) {
            return python::bound(conv2d_int8_operation(self), threads, output);
          },
          py::arg("threads"), py::arg("output") = py::none(), "A call of (x, packed, residual or None, y).");
  bind(m, "conv2d_int8", conv2d_int8_operation);
}

}  // namespace fastcnn
