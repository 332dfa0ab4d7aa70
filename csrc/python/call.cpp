#include "python/call.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "python/fingerprints.h"
#include "python/tensor.h"

namespace fastcnn::python {
namespace {

constexpr uint8_t kComplex = 5;

struct DLManagedTensor {
  uint32_t major, minor;
  void* context;
  void (*deleter)(DLManagedTensor*);
  uint64_t flags;
  DLTensor tensor;
};

struct DLPackTable {
  uint32_t major, minor;
  DLPackTable* previous;
  int (*allocate)(DLTensor*, DLManagedTensor**, void*, void (*)(void*, const char*, const char*));
  int (*export_owning)(void* object, DLManagedTensor**);
  int (*import)(DLManagedTensor*, void** object);
  int (*read)(void* object, DLTensor*);
  int (*stream)(int, int32_t, void**);
};

const DLPackTable* table = nullptr;
PyTypeObject *tensor_type = nullptr, *parameter_type = nullptr;

PyObject *data_ptr_name, *is_neg_name, *requires_grad_name, *current_level_name, *new_empty_strided_name;

}  // namespace

bool is_tensor(PyObject* object) {
  return Py_TYPE(object) == tensor_type || Py_TYPE(object) == parameter_type;
}

bool is_tensor_like(PyObject* object) { return tensor_type && PyObject_TypeCheck(object, tensor_type); }

bool read(PyObject* object, DLTensor* tensor) {
  *tensor = {};
  if (object == Py_None) return true;
  if (table && is_tensor(object)) return table->read(object, tensor) == 0;
  PyObject* address =
      PyLong_Check(object) ? Py_NewRef(object) : PyObject_CallMethodNoArgs(object, data_ptr_name);
  if (!address) return false;
  tensor->data = PyLong_AsVoidPtr(address);
  Py_DECREF(address);
  return tensor->data || !PyErr_Occurred();
}

namespace {

struct Bound {
  Py_ssize_t inputs;
  PyObject *shape, *strides;  // of the output, or null
  std::vector<int64_t> sizes;
  std::function<void(void* const*)> run;
};

struct Call {
  PyObject_HEAD;
  vectorcallfunc vectorcall;
  Bound* bound;
};

// An output in one block of memory: this, then the elements, at a multiple of 64 bytes as torch has them.
struct Output {
  DLManagedTensor managed;
  int64_t sizes[2 * 4];
  static constexpr size_t kAlignment = 64;
};

// A tensor of the dtype and device of `like`, of which `model` was read; null after a Python error.
PyObject* new_output(const Bound& call, PyObject* like, const DLTensor& model, void** address) {
  const auto ndim = static_cast<int32_t>(call.sizes.size() / 2);
  int64_t bytes = model.type_bits * model.type_lanes / 8;
  for (int32_t i = 0; i < ndim; ++i) bytes *= call.sizes[i];
  void* block = nullptr;
  if (model.device_type == kCpu && ndim <= 4) block = malloc(sizeof(Output) + Output::kAlignment + bytes);
  if (!block) {  // if there is no memory, torch says so
    DLTensor made;
    PyObject* output =
        PyObject_CallMethodObjArgs(like, new_empty_strided_name, call.shape, call.strides, nullptr);
    if (output && !read(output, &made)) Py_CLEAR(output);
    if (output) *address = address_of(made);
    return output;
  }
  const auto end = reinterpret_cast<uintptr_t>(block) + sizeof(Output) + Output::kAlignment - 1;
  *address = reinterpret_cast<void*>(end / Output::kAlignment * Output::kAlignment);
  auto* output = new (block) Output{};
  for (int32_t i = 0; i < 2 * ndim; ++i) output->sizes[i] = call.sizes[i];
  DLManagedTensor& managed = output->managed;
  managed.major = table->major;
  managed.minor = table->minor;
  managed.deleter = [](DLManagedTensor* self) { free(self); };
  managed.tensor = model;
  managed.tensor.data = *address;
  managed.tensor.byte_offset = 0;
  managed.tensor.ndim = ndim;
  managed.tensor.shape = output->sizes;
  managed.tensor.strides = output->sizes + ndim;
  void* tensor;
  return table->import(&managed, &tensor) ? nullptr : static_cast<PyObject*>(tensor);
}

// Runs the kernel and returns the output, which is made where it is None. addresses: of the inputs, of which
// `first` is the first and `model` what was read of it, and of the output.
PyObject* launch(const Bound& call, void** addresses, PyObject* first, const DLTensor& model,
                 PyObject* output) {
  output = output == Py_None && call.shape ? new_output(call, first, model, &addresses[call.inputs])
                                           : Py_NewRef(output);
  if (!output) return nullptr;
  std::exception_ptr thrown;
  Py_BEGIN_ALLOW_THREADS;
  try {
    call.run(addresses);
  } catch (...) {
    thrown = std::current_exception();
  }
  Py_END_ALLOW_THREADS;
  if (!thrown) return output;
  Py_DECREF(output);
  try {
    std::rethrow_exception(thrown);
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

constexpr Py_ssize_t kFew = 8;  // tensors, the output among them, whose addresses need no memory of their own

PyObject* invoke(PyObject* self, PyObject* const* args, size_t count, PyObject* names) {
  const Bound& call = *reinterpret_cast<Call*>(self)->bound;
  if (PyVectorcall_NARGS(count) != call.inputs + 1 || (names && PyTuple_GET_SIZE(names)))
    return PyErr_Format(PyExc_TypeError, "%zd tensors and an output are needed, %zd were given", call.inputs,
                        PyVectorcall_NARGS(count));
  void* few[kFew];
  std::vector<void*> many(call.inputs < kFew ? 0 : call.inputs + 1);
  void** addresses = call.inputs < kFew ? few : many.data();
  DLTensor first{}, tensor;
  for (Py_ssize_t i = 0; i <= call.inputs; ++i) {
    if (!read(args[i], &tensor)) return nullptr;
    addresses[i] = address_of(tensor);
    if (i == 0) first = tensor;
  }
  return launch(call, addresses, args[0], first, args[call.inputs]);
}

void destroy(PyObject* self) {
  Bound* bound = reinterpret_cast<Call*>(self)->bound;
  Py_XDECREF(bound->shape);
  Py_XDECREF(bound->strides);
  delete bound;
  Py_TYPE(self)->tp_free(self);
}

PyTypeObject call_type = [] {
  PyTypeObject type{};
  Py_SET_REFCNT(reinterpret_cast<PyObject*>(&type), 1);
  type.tp_name = "fastcnn._C.Call";
  type.tp_basicsize = sizeof(Call);
  type.tp_dealloc = destroy;
  type.tp_vectorcall_offset = offsetof(Call, vectorcall);
  type.tp_call = PyVectorcall_Call;
  type.tp_doc =
      "A kernel, bound to its problem: a function of its tensors and of the output or None, which it "
      "returns.";
  type.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL;
  return type;
}();

// What attach() was given, kept for good: what each call asks of torch and of fastcnn/core.
struct {
  PyObject *profiler_enabled, *observers, *grad_enabled, *forward_ad, *recorders, *local_backend,
      *global_backend, *num_threads, *describe;
  int by_attributes;  // no DLPack table: tensors are described by `describe`, a Python function
} attached;

PyObject* attach(PyObject*, PyObject* args) {
  auto& a = attached;
  if (!PyArg_ParseTuple(args, "O!O!OO!OOO!OO!OOp", &PyType_Type, &tensor_type, &PyType_Type, &parameter_type,
                        &a.profiler_enabled, &PyTuple_Type, &a.observers, &a.grad_enabled, &a.forward_ad,
                        &PyList_Type, &a.recorders, &a.local_backend, &PyList_Type, &a.global_backend,
                        &a.num_threads, &a.describe, &a.by_attributes))
    return nullptr;
  Py_INCREF(args);
  data_ptr_name = PyUnicode_InternFromString("data_ptr");
  is_neg_name = PyUnicode_InternFromString("is_neg");
  requires_grad_name = PyUnicode_InternFromString("requires_grad");
  current_level_name = PyUnicode_InternFromString("_current_level");
  new_empty_strided_name = PyUnicode_InternFromString("new_empty_strided");
  PyObject* capsule = PyObject_GetAttrString(PyTuple_GET_ITEM(args, 0), "__dlpack_c_exchange_api__");
  if (capsule) table = static_cast<const DLPackTable*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  if (table && (table->major != 1 || !table->read)) table = nullptr;
  Py_XDECREF(capsule);
  PyErr_Clear();
  a.by_attributes |= !table;
  return PyBool_FromLong(table != nullptr);
}

// A reference of our own, given back at the end; null after a Python error.
struct Held {
  PyObject* object;
  explicit Held(PyObject* object) : object(object) {}
  Held(const Held&) = delete;
  ~Held() { Py_XDECREF(object); }
  bool no() const { return object && PyObject_IsTrue(object) == 0; }
};

// Reads a tensor and appends what describe() says of it;
// false if it is no plain one, maybe with a Python error.
bool append(PyObject* object, std::vector<int64_t>& words, DLTensor* tensor) {
  if (object == Py_None) {
    *tensor = {};
    words.push_back(-1);
    return true;
  }
  if (!is_tensor(object) || !read(object, tensor) || tensor->type_code == kComplex ||
      !Held(PyObject_CallMethodNoArgs(object, is_neg_name)).no())
    return false;
  // No memory: nothing to read, or what PyTorch has for zeros.
  if (!tensor->data && std::count(tensor->shape, tensor->shape + tensor->ndim, 0) == 0) return false;
  words.push_back(int64_t{tensor->ndim} << 48 | int64_t{tensor->device_type} << 32 | tensor->device_id);
  words.push_back(int64_t{tensor->type_code} << 32 | tensor->type_bits << 16 | tensor->type_lanes);
  words.insert(words.end(), tensor->shape, tensor->shape + tensor->ndim);
  words.insert(words.end(), tensor->strides, tensor->strides + tensor->ndim);
  return true;
}

// A new reference; null, without an error, where one of them is no plain tensor. The addresses of few tensors
// and of `out` are found on the way, and what there is to read of the first.
PyObject* description(PyObject* tensors, PyObject* out, void** addresses, DLTensor* first) {
  if (!PyTuple_Check(tensors)) return nullptr;
  if (attached.by_attributes) {
    PyObject* described = PyObject_CallFunctionObjArgs(attached.describe, tensors, out, nullptr);
    if (described == Py_None) Py_CLEAR(described);
    PyErr_Clear();
    return described;
  }
  thread_local std::vector<int64_t> words;
  words.clear();
  const Py_ssize_t count = PyTuple_GET_SIZE(tensors);
  for (Py_ssize_t i = 0; i <= count; ++i) {
    DLTensor tensor;
    if (!append(i < count ? PyTuple_GET_ITEM(tensors, i) : out, words, &tensor)) {
      PyErr_Clear();
      return nullptr;
    }
    if (count < kFew) addresses[i] = address_of(tensor);
    if (i == 0) *first = tensor;
  }
  return PyBytes_FromStringAndSize(reinterpret_cast<const char*>(words.data()),
                                   words.size() * sizeof(int64_t));
}

// A new reference; null after a Python error.
PyObject* key_of(PyObject* described, PyObject* params, PyObject* setting) {
  PyObject* backend = nullptr;
  if (PyContextVar_Get(attached.local_backend, nullptr, &backend)) return nullptr;
  if (backend == Py_None) Py_SETREF(backend, Py_NewRef(PyList_GET_ITEM(attached.global_backend, 0)));
  const Held demanded(backend), threads(PyObject_CallNoArgs(attached.num_threads)),
      set(setting == Py_None ? Py_NewRef(Py_None) : PyObject_CallNoArgs(setting));
  return threads.object && set.object
             ? PyTuple_Pack(5, described, params, backend, threads.object, set.object)
             : nullptr;
}

PyObject* key(PyObject*, PyObject* const* args, Py_ssize_t) {
  void* addresses[kFew];
  DLTensor first;
  const Held described(description(args[0], args[2], addresses, &first));
  return described.object ? key_of(described.object, args[1], args[3]) : Py_NewRef(Py_None);
}

bool is_inference(PyObject* tensors) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(attached.observers); ++i)
    if (!Held(PyObject_CallNoArgs(PyTuple_GET_ITEM(attached.observers, i))).no()) return false;
  const Held level(PyObject_GetAttr(attached.forward_ad, current_level_name));
  if (!level.object || PyLong_AsLong(level.object) >= 0) return false;
  if (Held(PyObject_CallNoArgs(attached.grad_enabled)).no()) return true;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tensors); ++i) {
    PyObject* tensor = PyTuple_GET_ITEM(tensors, i);
    if (tensor != Py_None && !Held(PyObject_GetAttr(tensor, requires_grad_name)).no()) return false;
  }
  return true;
}

PyObject* is_inference(PyObject*, PyObject* tensors) {
  if (!PyTuple_Check(tensors))
    return PyErr_Format(PyExc_TypeError, "tensors are %R; a tuple is needed", tensors);
  const bool found = is_inference(tensors);
  return PyErr_Occurred() ? nullptr : PyBool_FromLong(found);
}

// The runner remembered under the call's key; a new reference, or null, maybe with an error.
PyObject* remembered(PyObject* runners, PyObject* described, PyObject* tensors, PyObject* params,
                     PyObject* setting) {
  if (!described || PyList_GET_SIZE(attached.recorders) ||
      !Held(PyObject_CallNoArgs(attached.profiler_enabled)).no() || !is_inference(tensors))
    return nullptr;
  const Held key(key_of(described, params, setting));
  return key.object ? Py_XNewRef(PyDict_GetItemWithError(runners, key.object)) : nullptr;
}

PyObject* recall(PyObject*, PyObject* const* args, Py_ssize_t) {
  PyObject *tensors = args[1], *out = args[3];
  void* addresses[kFew];
  DLTensor first;
  const Held described(description(tensors, out, addresses, &first));
  const Held runner(remembered(args[0], described.object, tensors, args[2], args[4]));
  if (!runner.object) {
    PyErr_Clear();  // of a parameter that no key can have; the long way says what is wrong with it
    Py_RETURN_NONE;
  }
  const Py_ssize_t count = PyTuple_GET_SIZE(tensors);
  if (Py_TYPE(runner.object) == &call_type && count < kFew &&
      !attached.by_attributes) {  // nothing is read twice
    const Bound& call = *reinterpret_cast<Call*>(runner.object)->bound;
    if (call.inputs == count) return launch(call, addresses, PyTuple_GET_ITEM(tensors, 0), first, out);
  }
  std::vector<PyObject*> operands(&PyTuple_GET_ITEM(tensors, 0), &PyTuple_GET_ITEM(tensors, 0) + count);
  operands.push_back(out);
  return PyObject_Vectorcall(runner.object, operands.data(), count + 1, nullptr);
}

template <class F>
PyCFunction fast(F* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

// The docstrings have pybind11's form, from which scripts/stub.py reads the types.
PyMethodDef functions[] = {
    {"attach", attach, METH_VARARGS, "attach(*asked: object) -> bool"},
    {"is_inference", is_inference, METH_O, "is_inference(tensors: tuple, /) -> bool"},
    {"key", fast(key), METH_FASTCALL,
     "key(tensors: tuple, params: tuple, out: object, setting: object, /) -> Any"},
    {"recall", fast(recall), METH_FASTCALL,
     "recall(runners: dict, tensors: tuple, params: tuple, out: object, setting: object, /) -> Any"},
    {"fingerprints", fingerprints, METH_O, "fingerprints(items: tuple, /) -> bytes"},
    {"memory_fingerprint", memory_fingerprint, METH_VARARGS,
     "memory_fingerprint(address: int, bytes: int, /) -> int"},
    {}};

}  // namespace

int add_functions(PyObject* module) {
  return PyModule_AddType(module, &call_type) < 0 ? -1 : PyModule_AddFunctions(module, functions);
}

PyObject* call(Py_ssize_t inputs, PyObject* output, std::function<void(void* const*)> run) {
  PyObject *shape = nullptr, *strides = nullptr;
  std::vector<int64_t> sizes;
  if (output != Py_None) {
    if (!PyArg_ParseTuple(output, "O!O!", &PyTuple_Type, &shape, &PyTuple_Type, &strides)) return nullptr;
    for (PyObject* tuple : {shape, strides})
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i)
        sizes.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i)));
    if (PyErr_Occurred()) return nullptr;
  }
  auto* self = PyObject_New(Call, &call_type);
  if (!self) return nullptr;
  self->vectorcall = invoke;
  self->bound = new Bound{inputs, Py_XNewRef(shape), Py_XNewRef(strides), std::move(sizes), std::move(run)};
  return reinterpret_cast<PyObject*>(self);
}

}  // namespace fastcnn::python
