// The extension module: what all operators share. An operator's own bindings stand beside it
// (python/bind.h). Python passes addresses, a problem struct, and a thread count or a stream; nothing here or
// below knows about torch, so one binary serves every torch version.
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "base/problem.h"
#include "cpu/caches.h"
#include "cpu/isa.h"
#include "plan/arenas.h"
#include "python/bind.h"
#include "python/bind_cuda.h"
#include "python/call.h"

namespace fastcnn::python {
namespace {

using Address = uintptr_t;
void* at(Address address) { return reinterpret_cast<void*>(address); }

void bind_enums(py::module_& m) {
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
}

void bind_processor(py::module_& m) {
  m.doc() = "CPU kernels. Addresses are ints, 0 where there is none; every kernel releases the GIL.";
  m.def("isa", [] { return isa_name(isa()); });
  m.def("set_isa", &set_isa,
        "For tests: \"amx\", \"avx512\", \"avx2\" or \"baseline\"; packed weights must be packed again.");
  m.def(
      "caches", [] { return std::make_tuple(caches().l1, caches().l2, caches().l3); },
      "Bytes of the first, second and third level.");
  m.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (Isa isa : {Isa::amx, Isa::avx512, Isa::avx2, Isa::baseline})
          if (isa_available(isa)) names.push_back(isa_name(isa));
        return names;
      },
      "What this processor can run, best first.");
}

std::vector<void*> at(const std::vector<Address>& addresses) {
  std::vector<void*> result;
  for (Address address : addresses) result.push_back(at(address));
  return result;
}

void run(const Plan& plan, const std::vector<void*>& inputs, const std::vector<void*>& outputs,
         Arenas& arenas, int threads, bool alone) {
  const Arenas::Taken arena(arenas, plan.arena_bytes() * std::min<int64_t>(threads, plan.slices()));
  plan.run(inputs, outputs, arena.data(), threads, alone);
}

py::class_<Plan> bind_plan(py::module_& m) {
  py::class_<Arenas, std::shared_ptr<Arenas>>(
      m, "Arenas", "Memory for runs of plans, shared by those of one model (csrc/plan/arenas.h).")
      .def(py::init());
  py::class_<Plan> plan(
      m, "Plan",
      "A network as one native call: operations over one arena (csrc/plan/plan.h), one method each. Tensors\n"
      "are (buffer, byte offset), or a buffer alone, or None. Constants are addresses, kept alive by the\n"
      "caller.");
  plan.def(py::init())
      .def("buffer", &Plan::buffer, py::arg("bytes"))
      .def("input", &Plan::input, py::arg("bytes"))
      .def("output", &Plan::output, py::arg("bytes"))
      .def("finalize", &Plan::finalize, py::arg("slices") = 1,
           "Places the buffers; from here on the plan may run, and may not change. With slices, inputs and\n"
           "outputs are so many times as long, and run() needs an arena for each thread.")
      .def_property_readonly("arena_bytes", &Plan::arena_bytes)
      .def(
          "run",
          [](const Plan& self, const std::vector<Address>& inputs, const std::vector<Address>& outputs,
             Arenas& arenas, int threads,
             bool alone) { run(self, at(inputs), at(outputs), arenas, threads, alone); },
          py::call_guard<py::gil_scoped_release>(), py::arg("inputs"), py::arg("outputs"), py::arg("arenas"),
          py::arg("threads"), py::arg("alone") = false)
      .def(
          "run",
          [](const Plan& self, const std::vector<Address>& inputs, const std::vector<Address>& outputs,
             Address arena, int threads,
             bool alone) { self.run(at(inputs), at(outputs), at(arena), threads, alone); },
          py::call_guard<py::gil_scoped_release>(), py::arg("inputs"), py::arg("outputs"), py::arg("arena"),
          py::arg("threads"), py::arg("alone") = false)
      .def(
          "call",
          [](const Plan& self, Py_ssize_t inputs, std::shared_ptr<Arenas> arenas, int threads, bool alone,
             py::handle output) {
            auto call = [&self, inputs, arenas = std::move(arenas), threads, alone](Addresses addresses) {
              run(self, {addresses, addresses + inputs}, {addresses[inputs]}, *arenas, threads, alone);
            };
            return bound(inputs, std::move(call), output);
          },
          py::arg("inputs"), py::arg("arenas"), py::arg("threads"), py::arg("alone"), py::arg("output"),
          "A plan of one output as what python/call.h calls a call; the caller keeps the plan alive.")
      .def(
          "describe",
          [](const Plan& self) {
            std::vector<std::tuple<std::string, std::string, std::string, double, int64_t>> rows;
            for (const Plan::Description& row : self.describe())
              rows.emplace_back(row.op, row.kernel, row.shape, row.gflop, row.bytes);
            return rows;
          },
          "(op, kernel, shapes, GFLOP, bytes) of every operation.");
  return plan;
}

}  // namespace

std::vector<Binding>& bindings() {
  static std::vector<Binding> all;
  return all;
}

Call bound(Py_ssize_t inputs, std::function<void(Addresses)> run, py::handle output) {
  auto call = py::reinterpret_steal<Call>(python::call(inputs, output.ptr(), std::move(run)));
  if (!call) throw py::error_already_set();
  return call;
}

Call bound(Operation operation, int threads, py::handle output) {
  const auto inputs = static_cast<Py_ssize_t>(operation.operands.size()) - 1;
  auto run = [run = std::move(operation.run), threads](Addresses addresses) { run(addresses, threads); };
  return bound(inputs, std::move(run), output);
}

void add_to_plan(Plan& plan, Operation operation, const py::tuple& operands) {
  std::vector<Given> given(operands.size());
  for (size_t i = 0; i < given.size(); ++i) {
    const py::object operand = operands[i];
    if (operand.is_none()) continue;
    if (i < operation.operands.size() && operation.operands[i].is_constant) {
      given[i].address = at(operand.cast<Address>());
    } else if (py::isinstance<py::int_>(operand)) {
      given[i].place.buffer = operand.cast<int>();
    } else {
      std::tie(given[i].place.buffer, given[i].place.offset) = operand.cast<std::pair<int, int64_t>>();
    }
  }
  plan.add(std::move(operation), given);
}

}  // namespace fastcnn::python

PYBIND11_MODULE(_C, m) {
  using namespace fastcnn;
  m.doc() = "Native kernels of fastcnn";
  isa();  // a wrong FASTCNN_CPU_ISA fails here, before any type is registered, so that a second import says
          // the same
  python::bind_enums(m);
  if (python::add_functions(m.ptr())) throw py::error_already_set();
  auto cpu = m.def_submodule("cpu");
  python::bind_processor(cpu);
  python::Module module{m, cpu, python::bind_plan(cpu)};
  for (python::Binding bind : python::bindings()) bind(module);
  m.def("build_info", [] {
    return std::map<std::string, std::string>{
        {"version", FASTCNN_VERSION}, {"compiler", FASTCNN_COMPILER}, {"cuda", FASTCNN_CUDA_BUILD}};
  });
#ifdef FASTCNN_WITH_CUDA
  python::bind_cuda(m.def_submodule("cuda"));
#endif
}
