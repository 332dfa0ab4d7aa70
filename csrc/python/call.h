// Calls from Python at little cost. What pybind11 spends on arguments, and torch's own functions on an
// output, is more than a small kernel runs for: here a kernel is bound to its problem once, and a call reads
// its tensors through DLPack's table of functions. This knows no more of torch than that table, which is a
// stable interface; a torch without one (before 2.10) is asked through its Python methods.
#pragma once

#include <Python.h>

#include <functional>

namespace fastcnn::python {

// Adds the rules by which a call is known again to the extension. They stand here alone; recall.py hands them
// on.
//
// key(tensors, params, out, setting) -> what a choice is remembered by: what the tensors, a tuple, and out
// have in common with those of every call that may be served alike (dtypes, devices, shapes and strides, as
// bytes), the parameters, the backend in force, the number of threads and what setting() says. None where one
// of the tensors is no plain one but sparse, complex, lazily negated, without memory or a subclass other than
// Parameter.
//
// is_inference(tensors) -> whether the result alone is wanted: no gradient, transform, mode or tracer takes
// part.
//
// recall(runners, tensors, params, out, setting) -> the output of the runner that is kept in `runners` under
// the call's key, in plain inference without a profiler; None for any other call: that takes the long way.
//
// attach(...) -> whether torch has DLPack's table of functions. Called before them, by recall.py, which says
// with what.
int add_functions(PyObject* module);

// A Python callable that takes `inputs` tensors, then one for the output or None, and returns the output; it
// releases the GIL. In the place of a tensor it takes None and an address, which is what `run` gets.
// output: None, or (shape, strides) of the tensor that is made where the output is None.
PyObject* call(Py_ssize_t inputs, PyObject* output, std::function<void(void* const* addresses)> run);

}  // namespace fastcnn::python
