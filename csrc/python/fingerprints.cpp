#include "python/fingerprints.h"

#include <algorithm>

#include "cpu/fingerprint.h"
#include "python/tensor.h"

namespace fastcnn::python {
namespace {

constexpr Py_ssize_t kTogether = 16;

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

// The object that an item stands for, borrowed; false with a Python error.
bool find(PyObject* given, PyObject** object) {
  *object = given;
  if (!PyTuple_CheckExact(given)) return true;
  PyObject* dict = PyTuple_GET_SIZE(given) == 2 ? PyTuple_GET_ITEM(given, 0) : nullptr;
  if (!dict || !PyDict_Check(dict)) {
    PyErr_SetString(PyExc_TypeError, "fingerprints: a pair that is not (dict, key)");
    return false;
  }
  *object = PyDict_GetItemWithError(dict, PyTuple_GET_ITEM(given, 1));
  return *object || !PyErr_Occurred();
}

// Fills in the rest.
void resolve(Item* item) {
  DLTensor& tensor = item->tensor = {};
  item->bytes = 0;
  if (!item->object || !is_tensor(item->object) ||
      !read(item->object, &tensor)) {  // none, or one without memory of its own
    PyErr_Clear();
    tensor.ndim = -1;
    return;
  }
  if (!tensor.data || tensor.device_type != kCpu) return;
  int64_t last = 0;
  for (int32_t i = 0; i < tensor.ndim; ++i) {
    if (tensor.shape[i] == 0) return;
    last += (tensor.shape[i] - 1) * tensor.strides[i];
  }
  item->bytes = (last + 1) * (tensor.type_bits * tensor.type_lanes / 8);
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

// Has the processor fetch what lies at an object, which is only an address here.
void fetch(const void* object, int lines = 1) {
  for (int i = 0; i < lines; ++i) __builtin_prefetch(static_cast<const char*>(object) + 64 * i);
}

// Where a dict has its entries: after a network has run, they are in no cache.
void fetch_entries(PyObject* dict) {
  fetch(reinterpret_cast<PyDictObject*>(dict)->ma_keys, 2);
  fetch(reinterpret_cast<PyDictObject*>(dict)->ma_values);
}

PyObject* dict_of(PyObject* given) {
  if (PyDict_Check(given)) return given;
  return PyTuple_CheckExact(given) && PyTuple_GET_SIZE(given) == 2 ? PyTuple_GET_ITEM(given, 0) : nullptr;
}

// torch's object behind a tensor's is one of the two words after the head of a Python object. Of torch this
// is a guess, and stays one: a wrong address costs a line of cache.
void fetch_implementation(PyObject* object) {
  if (!object || !is_tensor(object)) return;
  fetch(reinterpret_cast<void* const*>(object)[2], 4);
  fetch(reinterpret_cast<void* const*>(object)[3], 4);
}

// The fingerprints of some items. From dict to memory each is a chain of five addresses, none of them in a
// cache: gone through link by link for all of the items, the waits for memory are one, and not one an item.
bool fingerprints_of(PyObject* const* given, Py_ssize_t count, uint64_t* hashes) {
  Item items[kTogether];
  for (Py_ssize_t i = 0; i < count; ++i)
    if (PyObject* dict = dict_of(given[i])) fetch(dict);
  for (Py_ssize_t i = 0; i < count; ++i)
    if (PyObject* dict = dict_of(given[i]); dict && PyDict_Check(dict)) fetch_entries(dict);
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!find(given[i], &items[i].object)) return false;
    if (items[i].object) fetch(items[i].object);
  }
  for (Py_ssize_t i = 0; i < count; ++i) fetch_implementation(items[i].object);
  for (Py_ssize_t i = 0; i < count; ++i) {
    resolve(&items[i]);
    if (items[i].bytes) FASTCNN_SELECT(prefetch_fingerprint)(address_of(items[i].tensor), items[i].bytes);
  }
  for (Py_ssize_t i = 0; i < count; ++i)
    hashes[i] =
        PyDict_Check(given[i]) || PyList_Check(given[i]) ? contents_of(given[i]) : fingerprint_of(items[i]);
  return true;
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
  PyObject* const* given = &PyTuple_GET_ITEM(items, 0);
  for (Py_ssize_t i = 0; i < count; i += kTogether) {
    for (Py_ssize_t j = i + kTogether; j < std::min(count, i + 2 * kTogether); ++j) fetch(given[j]);
    if (!fingerprints_of(given + i, std::min(count - i, kTogether), hashes + i)) {
      Py_DECREF(found);
      return nullptr;
    }
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
