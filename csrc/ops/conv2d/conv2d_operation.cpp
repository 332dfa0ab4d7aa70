#include "ops/conv2d/conv2d.h"
#include "python/bind.h"

namespace fastcnn {

Operation conv2d_operation(const Conv2d& conv, WeightForm form) {
  const Conv2dProblem& p = conv.problem();
  const int64_t outputs = p.N * p.P * p.Q;
  const int64_t written = conv.max_pool() ? p.N * (p.P / 2) * (p.Q / 2) : outputs;
  return {conv.max_pool() ? "conv2d + max_pool2d" : "conv2d",
          conv.name(),
          dims({p.N, p.H, p.W, p.C}) + " * " + dims({p.K, p.R, p.S}),
          2e-9 * outputs * p.K * p.R * p.S * p.C / p.groups,
          form == WeightForm::packed ? conv.packed_bytes() : p.K * (p.C / p.groups) * p.R * p.S * 4,
          {tensor("x", p.N * p.H * p.W, p.C, p.x_stride, p.dtype), constant("weight"),
           constant("bias", p.has_bias),
           tensor("residual", p.has_residual ? outputs : 0, p.K, p.residual_stride, p.dtype),
           tensor("y", written, p.K, p.y_stride, p.dtype)},
          [conv, form](Addresses a, int threads) {
            conv.run(a[0], a[1], form, floats(a[2]), a[3], a[4], threads);
          }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, Conv2dProblem, dtype, activation, has_bias, has_residual, N, H, W, C, K, R, S, P, Q,
                  stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, x_stride, y_stride,
                  residual_stride);
  m.cpu.def("conv2d_algorithms", &conv2d_algorithms, "All of them, best first.");
  m.cpu.def("conv2d_reason", &conv2d_reason, py::arg("name"), py::arg("problem"), py::arg("threads"),
            "Why the algorithm does not take the problem; \"\" if it does.");
  m.cpu.def("set_winograd_tolerance", &set_winograd_tolerance, py::arg("tolerance"),
            "The largest relative L2 error that a Winograd algorithm may have to be chosen; 0 forbids them.");
  m.cpu.def("winograd_tolerance", &winograd_tolerance);
  py::enum_<WeightForm>(m.cpu, "WeightForm")
      .value("packed", WeightForm::packed)
      .value("contiguous", WeightForm::contiguous)
      .value("channels_last", WeightForm::channels_last)
      .value("flipped_contiguous", WeightForm::flipped_contiguous)
      .value("flipped_channels_last", WeightForm::flipped_channels_last);
  py::class_<Conv2d>(m.cpu, "Conv2d")
      .def(py::init<const Conv2dProblem&, const std::string&, bool>(), py::arg("problem"), py::arg("name"),
           py::arg("max_pool") = false)
      .def_property_readonly("packed_bytes", &Conv2d::packed_bytes)
      .def(
          "pack",
          [](const Conv2d& self, uintptr_t weight, uintptr_t packed, WeightForm form, int threads) {
            self.pack(reinterpret_cast<const float*>(weight), form, reinterpret_cast<void*>(packed), threads);
          },
          py::call_guard<py::gil_scoped_release>(), py::arg("weight"), py::arg("packed"),
          py::arg("form") = WeightForm::contiguous, py::arg("threads") = 1)
      .def(
          "bound",
          [](const Conv2d& self, int threads, py::handle output, WeightForm form) {
            return python::bound(conv2d_operation(self, form), threads, output);
          },
          py::arg("threads"), py::arg("output") = py::none(), py::arg("form") = WeightForm::packed);
  m.plan.def(
      "conv2d", [](Plan& plan, const Conv2d& conv, const py::object& x, const py::object& weight,
                   WeightForm form, const py::object& bias, const py::object& residual, const py::object& y) {
        python::add_to_plan(plan, conv2d_operation(conv, form), py::make_tuple(x, weight, bias, residual, y));
      });
}

}  // namespace fastcnn
