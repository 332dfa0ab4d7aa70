// How problems and operations become Python's. Beside each operator stands what of it does (plan/operation.h
// has an example):
//
//   FASTCNN_BIND(m) {
//     FASTCNN_PROBLEM(m, LrnProblem, dtype, pixels, C, ...);  // _C.LrnProblem with all its fields
//     bind(m, "lrn", lrn_operation);  // _C.cpu.lrn and Plan.lrn
//   }
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <vector>

#include "plan/operation.h"
#include "plan/plan.h"
#include "python/call.h"

namespace fastcnn::python {

namespace py = pybind11;

struct Module {
  py::module_ root, cpu;  // _C and _C.cpu
  py::class_<Plan> plan;
};

// Those of all operators, gathered before main() by FASTCNN_BIND.
using Binding = void (*)(Module&);
std::vector<Binding>& bindings();
struct Registered {
  explicit Registered(Binding binding) { bindings().push_back(binding); }
};
#define FASTCNN_BIND(module)                                           \
  static void bind_this(fastcnn::python::Module& module);              \
  static const fastcnn::python::Registered registered_this(bind_this); \
  static void bind_this(fastcnn::python::Module& module)

// FASTCNN_EACH(f, a, b, c) is f(a) f(b) f(c).
#define FASTCNN_EACH(f, ...) FASTCNN_SCAN(FASTCNN_NEXT(f, __VA_ARGS__))
#define FASTCNN_SCAN(...) FASTCNN_SCAN_3(FASTCNN_SCAN_3(FASTCNN_SCAN_3(FASTCNN_SCAN_3(__VA_ARGS__))))
#define FASTCNN_SCAN_3(...) FASTCNN_SCAN_2(FASTCNN_SCAN_2(FASTCNN_SCAN_2(FASTCNN_SCAN_2(__VA_ARGS__))))
#define FASTCNN_SCAN_2(...) FASTCNN_SCAN_1(FASTCNN_SCAN_1(FASTCNN_SCAN_1(FASTCNN_SCAN_1(__VA_ARGS__))))
#define FASTCNN_SCAN_1(...) __VA_ARGS__
// clang-format off
#define FASTCNN_NEXT(f, first, ...) f(first) __VA_OPT__(FASTCNN_LATER FASTCNN_NOTHING (f, __VA_ARGS__))
// clang-format on
#define FASTCNN_LATER() FASTCNN_NEXT
#define FASTCNN_NOTHING ()

// Fields are zero until Python sets them; fastcnn/core/native.py fills a struct from a problem of the same
// names.
#define FASTCNN_PROBLEM(module, problem, ...)                                              \
  do {                                                                                     \
    using Problem = problem;                                                               \
    py::class_<Problem> type((module).root, #problem);                                     \
    type.def(py::init([] { return Problem{}; })) FASTCNN_EACH(FASTCNN_FIELD, __VA_ARGS__); \
  } while (false)
#define FASTCNN_FIELD(name) .def_readwrite(#name, &Problem::name)

// What python/call.h calls a call, _C.Call to Python.
struct Call : py::object {
  PYBIND11_OBJECT_DEFAULT(Call, object, PyCallable_Check)
};

// The operation with its threads, and the output that it makes where none is given.
Call bound(Operation operation, int threads, py::handle output);

// The same of a function of the addresses of `inputs` tensors and one output.
Call bound(Py_ssize_t inputs, std::function<void(Addresses)> run, py::handle output);

// What a plan is given for an operand: (buffer, byte offset), a buffer alone or None, and of a constant the
// address.
void add_to_plan(Plan& plan, Operation operation, const py::tuple& operands);

// _C.cpu.<name>(problems..., threads, output) and Plan.<name>(problems..., operands...).
template <class... Problems>
void bind(Module& m, const char* name, Operation (*make)(const Problems&...)) {
  m.cpu.def(
      name,
      [make](const Problems&... problems, int threads, py::handle output) {
        return bound(make(problems...), threads, output);
      },
      (static_cast<void>(sizeof(Problems)), py::arg())..., py::arg("threads"),
      py::arg("output") = py::none());
  m.plan.def(name, [make](Plan& plan, const Problems&... problems, const py::args& operands) {
    add_to_plan(plan, make(problems...), operands);
  });
}

}  // namespace fastcnn::python

template <>
struct pybind11::detail::handle_type_name<fastcnn::python::Call> {
  static constexpr auto name = const_name("fastcnn._C.Call");
};

namespace fastcnn {
namespace py = pybind11;
using python::bind;
}  // namespace fastcnn
