#include "python/fingerprints.h"

#include <cstring>

#include "cpu/fingerprint.h"
#include "python/tensor.h"

namespace fastcnn::python {
namespace {

struct Item {
  PyObject* object;  // borrowed, null where a dict has no such key
  DLTensor tensor;   // ndim < 0: no tensor whose memory can be read
  int64_t bytes;     // from its first element to its last
};

uint64_t mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9E3779B97F4A7C15;
  return hash ^ hash >> 32;
}

// False with a Python error.
bool resolve(PyObject* given, Item* item) {
  PyObject* object = given;
  if (PyTuple_CheckExact(given)) {
    PyObject *dict, *key;
    if (!PyArg_ParseTuple(given, "O!O", &PyDict_Type, &dict, &key)) return false;
    object = PyDict_GetItemWithError(dict, key);
    if (!object && PyErr_Occurred()) return false;
  }
  *item = {object, {}, 0};
  DLTensor& tensor = item->tensor;
  if (!object || !is_tensor(object) || !read(object, &tensor)) {  // none, or one without memory of its own
    PyErr_Clear();
    tensor.ndim = -1;
    return true;
  }
  if (!tensor.data || tensor.device_type != kCpu) return true;
  int64_t last = 0;
  for (int32_t i = 0; i < tensor.ndim; ++i) {
    if (tensor.shape[i] == 0) return true;
    last += (tensor.shape[i] - 1) * tensor.strides[i];
  }
  item->bytes = (last + 1) * (tensor.type_bits * tensor.type_lanes / 8);
  return true;
}

// 0 where there is none, as of an inference tensor.
uint64_t version(PyObject* object) {
  static PyObject* name = PyUnicode_InternFromString("_version");
  PyObject* value = object ? PyObject_GetAttr(object, name) : nullptr;
  const uint64_t version = value ? PyLong_AsUnsignedLongLong(value) : 0;
  Py_XDECREF(value);
  PyErr_Clear();
  return version;
}

uint64_t fingerprint_of(const Item& item) {
  const DLTensor& tensor = item.tensor;
  if (tensor.ndim < 0) return mix(version(item.object), reinterpret_cast<uintptr_t>(item.object));
  uint64_t hash = mix(reinterpret_cast<uintptr_t>(tensor.data), tensor.byte_offset);
  hash = mix(hash, uint64_t(tensor.type_code) << 56 | uint64_t(tensor.type_bits) << 48 |
                       uint64_t(tensor.device_type) << 32 | uint64_t(tensor.device_id) << 16 | tensor.ndim);
  for (int32_t i = 0; i < tensor.ndim; ++i) hash = mix(mix(hash, tensor.shape[i]), tensor.strides[i]);
  if (item.bytes) hash = mix(hash, FASTCNN_SELECT(fingerprint)(address_of(tensor), item.bytes));
  return item.bytes && item.bytes <= kFingerprintWhole ? hash : mix(hash, version(item.object));
}

}  // namespace

PyObject* fingerprints(PyObject*, PyObject* items) {
  if (!PyTuple_Check(items))
    return PyErr_Format(PyExc_TypeError, "fingerprints: items is %s; a tuple is needed",
                        Py_TYPE(items)->tp_name);
  const Py_ssize_t count = PyTuple_GET_SIZE(items);
  PyObject* found = PyBytes_FromStringAndSize(nullptr, count * sizeof(uint64_t));
  if (!found) return nullptr;
  auto* hashes = reinterpret_cast<uint64_t*>(PyBytes_AS_STRING(found));
  Item next{}, item{};
  for (Py_ssize_t i = 0; i <= count;
       ++i) {  // the memory of an item is on its way while the one before is read
    if (i < count) {
      if (!resolve(PyTuple_GET_ITEM(items, i), &next)) {
        Py_DECREF(found);
        return nullptr;
      }
      if (next.bytes) FASTCNN_SELECT(prefetch_fingerprint)(address_of(next.tensor), next.bytes);
    }
    if (i > 0) {
      const uint64_t hash = fingerprint_of(item);
      memcpy(hashes + i - 1, &hash, sizeof hash);
    }
    item = next;
  }
  return found;
}

PyObject* memory_fingerprint(PyObject*, PyObject* args) {
  unsigned long long address;
  long long bytes;
  if (!PyArg_ParseTuple(args, "KL", &address, &bytes)) return nullptr;
  return PyLong_FromUnsignedLongLong(
      FASTCNN_SELECT(fingerprint)(reinterpret_cast<const void*>(address), bytes));
}

}  // namespace fastcnn::python
