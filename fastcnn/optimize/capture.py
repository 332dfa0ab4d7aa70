"""A model's call as a functional graph of ATen operators, recorded while the model itself runs.

The recorder looks over the model's shoulder: every operator runs on the real tensors as always, and is noted with
the values that it read and made. Nothing is simulated, so branches, types, devices, attributes and side effects are
the model's own, and happen once. What cannot be noted faithfully ends the recording, never the run.

Writes become new values. A tensor is a value, or a view of another tensor, made by an operator; a write through a
view gives every tensor that it is a view of a new value, and other views of them are made again when next read.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastcnn.optimize import structure
from fastcnn.optimize.network import Network, Node, meta_like

aten = torch.ops.aten

# Operators whose in-place form has the dtype that the functional form has, if all tensors have one dtype.
_DTYPE_KEPT = frozenset(
    [
        "abs_", "add_", "addmm_", "clamp_", "copy_", "div_", "elu_", "exp_", "fill_", "hardsigmoid_", "hardswish_",
        "hardtanh_", "index_put_", "leaky_relu_", "masked_fill_", "mul_", "neg_", "pow_", "relu_", "sigmoid_", "silu_",
        "sqrt_", "sub_", "tanh_", "zero_",
    ]
)  # fmt: skip
# What reads a tensor's memory, or changes what no operator shows: no graph can repeat it.
_UNSEEN = frozenset(
    [
        "__array__", "__deepcopy__", "__dlpack__", "__format__", "__reduce_ex__", "__repr__", "__set__",
        "_typed_storage", "backward", "data_ptr", "numpy", "register_hook", "register_post_accumulate_grad_hook",
        "requires_grad_", "retain_grad", "share_memory_", "storage", "to_sparse", "tolist", "untyped_storage",
    ]
)  # fmt: skip


class Uncapturable(Exception):
    """Why a call cannot be noted."""


@dataclass
class _Storage:
    """Memory that tensors share; owner: whose it is, in words, if it is not the call's own."""

    alive: StorageWeakRef
    owner: str | None
    version: int = 0


@dataclass(eq=False)
class _Value:
    """A tensor as the recorder knows it: the node that computes it, valid while the versions agree.

    view: the operator by which it was made from `parent`, with its arguments, the parent's left out, and which of the
    results it is.
    """

    tensor: weakref.ref[Tensor]
    node: Node
    storage: _Storage
    version: int
    parent: _Value | None = None
    view: tuple[Any, tuple[Any, ...], dict[str, Any], int | None] | None = None


@dataclass
class Recording:
    """What one call left: its result, and the network, or the reason why there is none."""

    result: Any
    network: Network | None
    build: structure.Builder | None
    reason: str = ""
    tensors: list[Tensor] = field(default_factory=list)  # those in the result, in the network's order


def record(
    call: Callable[[], Any], inputs: Sequence[Tensor], state: Mapping[int, tuple[str, Tensor]], names: Mapping[int, str]
) -> Recording:
    """Runs `call()` and notes it. Raises what it raises.

    inputs: its tensors, which become the graph's placeholders.
    state: by id the tensors that the model holds, with their names.
    names: by id the paths of its modules.
    """
    recorder = _Recorder(inputs, state, names)
    with recorder, _Watcher(recorder):
        result = call()
    if recorder.reason:
        return Recording(result, None, None, recorder.reason)
    try:
        outputs: list[Node] = []

        def leaf(tensor: Tensor) -> int:
            node = recorder.read(tensor)
            outputs.append(node)
            recorder.results.append(tensor)
            return len(outputs) - 1

        build = structure.builder(result, leaf)
    except Uncapturable as error:
        return Recording(result, None, None, str(error))
    except structure.Opaque as error:
        return Recording(result, None, None, f"the result holds an object of type {error}")
    recorder.network.graph.output(tuple(outputs))
    recorder.network.results = [meta_like(t) for t in recorder.results]
    return Recording(result, recorder.network, build, tensors=recorder.results)


class _Watcher(TorchFunctionMode):
    """Sees what goes round the dispatcher."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _UNSEEN:
            self._recorder.stop(f"{'assigning an attribute of a tensor' if name == '__set__' else name + '()'}")
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(
        self, inputs: Sequence[Tensor], state: Mapping[int, tuple[str, Tensor]], names: Mapping[int, str]
    ) -> None:
        super().__init__()
        self.network = Network(fx.Graph(), {})
        self.reason = ""
        self.results: list[Tensor] = []
        self._state, self._names = state, names
        self._values: dict[int, _Value] = {}
        self._storages: dict[int, _Storage] = {}
        for i, tensor in enumerate(inputs):
            node = self.network.graph.placeholder(f"input_{i}")
            self._track(tensor, node, owner="an input")

    def stop(self, reason: str) -> None:
        """Ends the recording; the first reason counts."""
        if not self.reason:
            self.reason = f"{self._where()}: {reason}"

    # ---- seeing operators ----------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        if self.reason or func.namespace == "profiler":
            return func(*args, **kwargs)
        try:  # arguments are read before the operator may write to them
            self._refuse(func, kwargs)
            writes = func._schema.is_mutable
            before = self._read_all((args, kwargs))
        except Uncapturable as error:
            self.stop(str(error))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        try:
            (self._write if writes else self._note)(func, args, kwargs, before, result)
        except Uncapturable as error:
            self.stop(str(error))
        return result

    def _refuse(self, func: Any, kwargs: dict[str, Any]) -> None:
        tags, name = func.tags, func._schema.name.removeprefix("aten::")
        if torch.Tag.data_dependent_output in tags:
            raise Uncapturable("the values of a tensor decide what happens next")
        if torch.Tag.dynamic_output_shape in tags:
            raise Uncapturable(f"the shape of the result of {name} depends on values")
        if kwargs.get("generator") is not None:
            raise Uncapturable(f"{name} draws random numbers")
        # Attention without dropout has the tag and draws none; that is seen in the generator's state.
        if torch.Tag.nondeterministic_seeded in tags and not name.startswith("_scaled_dot_product"):
            raise Uncapturable(f"{name} draws random numbers")

    def _note(self, func: Any, args: Any, kwargs: Any, before: Any, result: Any) -> None:
        node = self._call(func, before, result)
        if isinstance(result, Tensor):
            self._made(result, node, func, args, kwargs, None)
        elif isinstance(result, tuple | list):
            for i, tensor in enumerate(result):
                if isinstance(tensor, Tensor):
                    item = self.network.graph.call_function(operator.getitem, (node, i))
                    item.meta["val"] = node.meta["val"][i]
                    self._made(tensor, item, func, args, kwargs, i)
                elif tensor is not None:
                    raise Uncapturable(f"{func._schema.name} gives more than tensors")
        else:
            raise Uncapturable(f"{func._schema.name} gives no tensor")

    def _call(self, func: Any, arguments: Any, like: Any) -> Node:
        node = self.network.graph.call_function(func, *arguments)
        node.meta["val"] = meta_like(like)
        self.network.fused[node] = [self._layer(func)]
        return node

    def _made(self, tensor: Tensor, node: Node, func: Any, args: Any, kwargs: Any, index: int | None) -> None:
        if type(tensor) not in structure.PLAIN_TENSORS:
            raise Uncapturable(f"a tensor of class {type(tensor).__name__}")
        known = self._values.get(id(tensor))
        if known is not None and known.tensor() is tensor:
            return  # one of its arguments
        storage = self._storage(tensor)
        if storage is None:
            self._track(tensor, node)
            return
        for i, arg in enumerate(args):
            value = self._values.get(id(arg)) if isinstance(arg, Tensor) else None
            if value is not None and value.tensor() is arg and value.storage is storage:
                rest = (*args[:i], *args[i + 1 :]) if i == 0 else ()
                view = (func, rest, kwargs, index) if i == 0 else None
                self._values[id(tensor)] = _Value(weakref.ref(tensor), node, storage, storage.version, value, view)
                return
        raise Uncapturable(f"the result of {func._schema.name} shares memory with something unseen")

    # ---- tensors -------------------------------------------------------------------------------------------

    def _track(self, tensor: Tensor, node: Node, owner: str | None = None) -> _Value:
        node.meta["val"] = meta_like(tensor)
        storage = self._storage(tensor)
        if storage is None:
            memory = _memory(tensor)
            storage = self._storages[memory._cdata] = _Storage(StorageWeakRef(memory), owner)
        value = self._values[id(tensor)] = _Value(weakref.ref(tensor), node, storage, storage.version)
        return value

    def _storage(self, tensor: Tensor) -> _Storage | None:
        storage = self._storages.get(_memory(tensor)._cdata)
        return None if storage is None or storage.alive.expired() else storage

    def _lookup(self, tensor: Tensor) -> _Value:
        value = self._values.get(id(tensor))
        if value is not None and value.tensor() is tensor:
            return value
        if type(tensor) not in structure.PLAIN_TENSORS or tensor.is_conj() or tensor.is_neg():
            raise Uncapturable(f"a tensor of class {type(tensor).__name__}, conjugated or negated lazily")
        if (storage := self._storage(tensor)) is not None and storage.owner is None:
            raise Uncapturable("a tensor that shares memory with another in a way unseen")
        name, held = self._state.get(id(tensor), ("", None))
        owner = f"{name} of the model" if held is tensor else "a tensor from outside"
        return self._track(tensor, self.network.constant(name or "constant", tensor), owner)

    def read(self, tensor: Tensor) -> Node:
        """The node that computes what the tensor holds now."""
        return self._current(self._lookup(tensor))

    def _current(self, value: _Value) -> Node:
        if value.version != value.storage.version:
            if value.parent is None or value.view is None:
                raise Uncapturable("memory is written that other tensors share in a way unseen")
            func, rest, kwargs, index = value.view
            meta = value.node.meta["val"]
            whole = self._current(value.parent)
            node = self.network.graph.call_function(func, (whole, *rest), kwargs)
            if index is not None:
                node.meta["val"] = meta_like(func(whole.meta["val"], *rest, **kwargs))
                node = self.network.graph.call_function(operator.getitem, (node, index))
            node.meta["val"] = meta
            value.node, value.version = node, value.storage.version
        return value.node

    def _read_all(self, tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return self.read(tree)
        if isinstance(tree, tuple | list):
            return (
                type(tree)(map(self._read_all, tree)) if type(tree) in (tuple, list) else [*map(self._read_all, tree)]
            )
        if isinstance(tree, dict):
            return {key: self._read_all(item) for key, item in tree.items()}
        if isinstance(tree, torch.Generator | torch.ScriptObject):
            raise Uncapturable(f"an argument of type {type(tree).__name__}")
        return tree

    # ---- writes --------------------------------------------------------------------------------------------

    def _write(self, func: Any, args: Any, kwargs: Any, before: Any, result: Any) -> None:
        name = func._schema.name.removeprefix("aten::")
        if name in ("detach_", "lift_fresh"):
            return
        written = [
            args[i] if i < len(args) else kwargs.get(a.name)
            for i, a in enumerate(func._schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
        ]
        written = [tensor for tensor in written if tensor is not None]
        if len(written) != 1 or not isinstance(written[0], Tensor):
            raise Uncapturable(f"{name} writes to several tensors")
        (target,) = written
        value = self._lookup(target)
        if value.storage.owner is not None:
            raise Uncapturable(f"{name} writes to {value.storage.owner}")
        twin = _functional(func)
        if twin is None:
            raise Uncapturable(f"{name} has no form that does not write")
        if torch.Tag.inplace_view in func.tags:
            self._become_view(target, value, twin, args, kwargs, before)
            return
        meta = value.node.meta["val"]
        if (tuple(meta.shape), meta.dtype) != (tuple(target.shape), target.dtype):
            raise Uncapturable(f"{name} changes the shape of a tensor")
        (positional, keywords), out = before, {a.name for a in func._schema.arguments if a.is_out}
        arguments = positional, {key: item for key, item in keywords.items() if key not in out}
        self._assign(value, self._new_value(name, twin, arguments, meta))

    def _new_value(self, name: str, twin: Any, arguments: Any, meta: Any) -> Node:
        """What a tensor like `meta` holds after a write."""
        metas = [node.meta["val"] for node in _nodes(arguments)]
        alike = all(m.dtype == meta.dtype for m in metas)
        if name == "copy_" and alike and metas[1].shape == meta.shape:
            return arguments[0][1]
        node = self._call(twin, arguments, meta)
        if not alike or name not in _DTYPE_KEPT:
            given = fx.map_arg(arguments, lambda node: node.meta["val"])
            try:
                made = twin(*given[0], **given[1])
            except Exception as error:
                raise Uncapturable(f"{name}: {error}") from error
            if not isinstance(made, Tensor) or made.shape != meta.shape:
                raise Uncapturable(f"{name} changes the shape of a tensor")
            if made.dtype != meta.dtype:
                node.meta["val"] = made
                node = self._call(aten._to_copy.default, ((node,), {"dtype": meta.dtype}), meta)
        return node

    def _assign(self, value: _Value, node: Node) -> None:
        """The tensor holds what the node computes, and so do those that it is a view of."""
        fresh, step = [(value, node)], value
        while step.parent is not None:
            if step.view is None:
                raise Uncapturable("a write through a view of several tensors")
            node = self._inverse(step, self._current(step.parent), node)
            step = step.parent
            fresh.append((step, node))
        value.storage.version += 1
        for changed, node in fresh:
            changed.node, changed.version = node, value.storage.version

    def _inverse(self, view: _Value, whole: Node, part: Node) -> Node:
        """`whole` with `part` in the place that the view shows."""
        assert view.view is not None
        func, rest, kwargs, index = view.view
        meta = whole.meta["val"]
        rule = _INVERSES.get(func._schema.name.removeprefix("aten::"))
        if rule is None or kwargs or part.meta["val"].dtype != meta.dtype:
            raise Uncapturable(f"a write through {func._schema.name}")
        target, arguments, scatters = rule(meta, rest, index, part.meta["val"])
        return self._call(target, ((whole, part, *arguments) if scatters else (part, *arguments), {}), meta)

    def _become_view(self, tensor: Tensor, value: _Value, twin: Any, args: Any, kwargs: Any, before: Any) -> None:
        """unsqueeze_() and its like: the tensor is from now on a view of what it was."""
        node = self._call(twin, before, tensor)
        view = (twin, tuple(args[1:]), kwargs, None)
        storage = value.storage
        self._values[id(tensor)] = _Value(weakref.ref(tensor), node, storage, storage.version, value, view)

    # ---- where ---------------------------------------------------------------------------------------------

    def _module(self) -> tuple[Any, Any]:
        """The innermost module of the model whose code is running, and the frame."""
        frame = sys._getframe(2)
        while frame is not None:
            if frame.f_code.co_argcount and frame.f_code.co_varnames[0] == "self":
                module = frame.f_locals.get("self")
                if isinstance(module, nn.Module) and id(module) in self._names:
                    return module, frame
            frame = frame.f_back  # type: ignore[assignment]
        return None, None

    def _layer(self, func: Any) -> str:
        """The layer that an operator belongs to; the operator's own name after that of a module of several layers."""
        module, _ = self._module()
        path = "" if module is None else self._names[id(module)]
        if module is not None and path and not module._modules:
            return path
        name = func._schema.name.rpartition("::")[2].removesuffix("_with_indices").strip("_").removeprefix("native_")
        return f"{path}.{name}" if path else name

    def _where(self) -> str:
        module, frame = self._module()
        if module is None:
            return "the call"
        name = self._names[id(module)]
        file = frame.f_code.co_filename.rpartition("/")[2]
        return f"{type(module).__name__}{f' ({name})' if name else ''}, {file}:{frame.f_lineno}"


def _memory(tensor: Tensor) -> Any:
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError) as error:
        raise Uncapturable(f"a tensor without memory of its own: {tensor.layout}") from error


_composite: dict[Any, bool] = {}


def _is_composite(func: Any) -> bool:
    """Whether an operator is only made of others; they are seen one by one, as outside of inference mode."""
    if func not in _composite:
        key = torch._C.DispatchKey.CompositeImplicitAutograd
        _composite[func] = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
    return _composite[func]


def _nodes(tree: Any) -> list[Node]:
    found: list[Node] = []
    fx.map_arg(tree, found.append)
    return found


_twins: dict[Any, Any] = {}


def _functional(func: Any) -> Any:
    """The overload that computes what an in-place or out= overload writes; None if there is none."""
    if func not in _twins:
        name = func._schema.name.partition("::")[2]
        packet = getattr(getattr(torch.ops, func.namespace), name.removesuffix("_"), None)
        wanted = [(a.name, str(a.type)) for a in func._schema.arguments if not a.is_out]
        found = None
        for overload in packet.overloads() if packet is not None else ():
            candidate = getattr(packet, overload)
            schema = candidate._schema
            if not schema.is_mutable and [(a.name, str(a.type)) for a in schema.arguments] == wanted:
                found = candidate
        _twins[func] = found
    return _twins[func]


# ---- views and their inverses ------------------------------------------------------------------------------------

# Each rule takes what is known of the whole, the view's arguments, which of its results is meant, and what is known of
# the part; it gives an operator, its further arguments, and whether it takes the whole too.
_Inverse = Callable[[Any, tuple[Any, ...], "int | None", Any], "tuple[Any, tuple[Any, ...], bool]"]


def _reshaped(whole: Any, rest: Any, index: Any, part: Any) -> Any:
    return aten.reshape.default, (list(whole.shape),), False


def _permuted(whole: Any, rest: Any, index: Any, part: Any) -> Any:
    dims = [d % whole.dim() for d in rest[0]]
    return aten.permute.default, ([dims.index(i) for i in range(len(dims))],), False


def _split(whole: Any, rest: Any, index: Any, part: Any) -> Any:
    sizes, dim = rest[0], rest[1] if len(rest) > 1 else 0
    start = sum(sizes[:index]) if isinstance(sizes, list | tuple) else sizes * index
    return aten.slice_scatter.default, (dim, start, start + part.shape[dim]), True


def _scatter(name: str) -> _Inverse:
    target = getattr(aten, name).default
    return lambda whole, rest, index, part: (target, rest, True)


_INVERSES: dict[str, _Inverse] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "detach", "alias"), _reshaped),
    "permute": _permuted,
    "transpose": lambda whole, rest, index, part: (aten.transpose.int, rest, False),
    "t": lambda whole, rest, index, part: (aten.t.default, (), False),
    "slice": _scatter("slice_scatter"),
    "select": _scatter("select_scatter"),
    "diagonal": _scatter("diagonal_scatter"),
    "split": _split,
    "split_with_sizes": _split,
    "unbind": lambda whole, rest, index, part: (
        aten.select_scatter.default, (rest[0] if rest else 0, index), True),
}  # fmt: skip
