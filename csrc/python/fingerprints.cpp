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

// Words in an order, as one: a sum of products, so that no word waits for the one before.
struct Mix {
  uint64_t hash = 0, factor = 0x9E3779B97F4A7C15;

  void add(uint64_t word) {
    hash += (word ^ word >> 32) * factor;
    factor += 0xD6E8FEB86659FD93 * 2;  // odd, as an even factor would lose a bit of the word
  }
  void add(const void* pointer) { add(reinterpret_cast<uintptr_t>(pointer)); }
};

// False with a Python error.
bool resolve(PyObject* given, Item* item) {
  PyObject* object = given;
  if (PyTuple_CheckExact(given)) {
    PyObject* dict = PyTuple_GET_SIZE(given) == 2 ? PyTuple_GET_ITEM(given, 0) : nullptr;
    if (!dict || !PyDict_Check(dict)) {
      PyErr_SetString(PyExc_TypeError, "fingerprints: a pair that is not (dict, key)");
      return false;
    }
    object = PyDict_GetItemWithError(dict, PyTuple_GET_ITEM(given, 1));
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
  if (!object || !is_tensor_like(object)) return 0;
  PyObject* value = PyObject_GetAttr(object, name);
  const uint64_t version = value ? PyLong_AsUnsignedLongLong(value) : 0;
  Py_XDECREF(value);
  PyErr_Clear();
  return version;
}

// Which objects a dict or a list holds, in order.
uint64_t contents_of(PyObject* container) {
  Mix mix;
  if (PyList_Check(container)) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(container); ++i) mix.add(PyList_GET_ITEM(container, i));
    return mix.hash;
  }
  Py_ssize_t position = 0;
  for (PyObject *key, *value; PyDict_Next(container, &position, &key, &value);) {
    mix.add(key);
    mix.add(value);
  }
  return mix.hash;
}

uint64_t fingerprint_of(const Item& item) {
  const DLTensor& tensor = item.tensor;
  Mix mix;
  if (tensor.ndim < 0) {
    mix.add(item.object);
  } else {
    mix.add(address_of(tensor));
    mix.add(uint64_t(tensor.type_code) << 56 | uint64_t(tensor.type_bits) << 48 |
            uint64_t(tensor.device_type) << 32 | uint64_t(tensor.device_id) << 16 | tensor.ndim);
    for (int32_t i = 0; i < tensor.ndim; ++i) {
      mix.add(tensor.shape[i]);
      mix.add(tensor.strides[i]);
    }
    if (item.bytes) mix.add(FASTCNN_SELECT(fingerprint)(address_of(tensor), item.bytes));
  }
  if (item.bytes == 0 || item.bytes > kFingerprintWhole) mix.add(version(item.object));
  return mix.hash;
}

// Has the processor fetch the objects of the items to come: after a network has run they are in no cache.
void prefetch(PyObject* items, Py_ssize_t i, Py_ssize_t count) {
  if (i + 8 < count) __builtin_prefetch(PyTuple_GET_ITEM(items, i + 8));
  if (i + 4 >= count) return;
  PyObject* given = PyTuple_GET_ITEM(items, i + 4);
  if (PyTuple_CheckExact(given)) {
    if (PyTuple_GET_SIZE(given)) __builtin_prefetch(PyTuple_GET_ITEM(given, 0));
  } else if (PyDict_Check(given)) {
    __builtin_prefetch(reinterpret_cast<PyDictObject*>(given)->ma_keys);
    __builtin_prefetch(reinterpret_cast<PyDictObject*>(given)->ma_values);
  }
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
  // The memory of an item is on its way while the one before is read.
  Item next{}, item{};
  for (Py_ssize_t i = 0; i <= count; ++i) {
    prefetch(items, i, count);
    if (i < count) {
      if (!resolve(PyTuple_GET_ITEM(items, i), &next)) {
        Py_DECREF(found);
        return nullptr;
      }
      if (next.bytes) FASTCNN_SELECT(prefetch_fingerprint)(address_of(next.tensor), next.bytes);
    }
    if (i > 0) {
      PyObject* given = PyTuple_GET_ITEM(items, i - 1);
      const uint64_t hash =
          PyDict_Check(given) || PyList_Check(given) ? contents_of(given) : fingerprint_of(item);
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
