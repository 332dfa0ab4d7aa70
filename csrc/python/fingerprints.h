// How fastcnn notices that weights have changed, whoever changed them.
#pragma once

#include <Python.h>

namespace fastcnn::python {

// fingerprints(items) -> bytes, 8 for each item of a tuple; equal bytes, unchanged items.
//
// An item is a tensor, a pair (dict, key), which stands for what the dict holds under the key (a module's
// parameter may be another tensor by now), or a dict or a list, of which the bytes show which objects it
// holds. Of a tensor the bytes show its address, shape, strides, dtype and
// device, and what fingerprint() in cpu/fingerprint.h reads of its memory; its version counter too where that
// is not all of it. Of any other object they show which it is.
PyObject* fingerprints(PyObject*, PyObject* items);

// fingerprint(address, bytes) -> int: of memory, for a torch without DLPack's table.
PyObject* memory_fingerprint(PyObject*, PyObject* args);

}  // namespace fastcnn::python
