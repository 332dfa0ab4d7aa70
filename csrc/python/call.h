// Calls from Python at little cost. What pybind11 spends on arguments, and torch's own functions on an
// output, is more than a small kernel runs for: here a kernel is bound to its problem once, and a call reads
// its tensors through DLPack's table of functions. This knows no more of torch than that table, which is a
// stable interface; a torch without one (before 2.10) is asked through its Python methods.
#pragma once

#include <Python.h>

#include <functional>

namespace fastcnn::python {

// Adds three functions to the extension.
//
// describe(tensors, out) -> what the tensors, a tuple, and out have in common with those of every call that
// may be served alike: their dtypes, devices, shapes and strides, as bytes. None where one of them is no
// plain tensor but sparse, complex, lazily negated, without memory or a subclass other than Parameter.
//
// recall(runners, tensors, params, out, setting) -> the output of the runner that selector.py remembers for
// such a call in plain inference; None for any other call: that takes the long way.
//
// attach(...) -> whether the two serve with this torch. Called once, before them, by recall.py, which says
// of what.
int add_functions(PyObject* module);

// A Python callable that takes `inputs` tensors, then one for the output or None, and returns the output; it
// releases the GIL. In the place of a tensor it takes None and an address, which is what `run` gets.
// output: None, or (shape, strides) of the tensor that is made where the output is None.
PyObject* call(Py_ssize_t inputs, PyObject* output, std::function<void(void* const* addresses)> run);

}  // namespace fastcnn::python
