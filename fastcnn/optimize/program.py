"""A network at one set of input shapes: plans, and calls of PyTorch between them.

The graph is walked once with tensors of no data to learn every shape. Runs of operators with native CPU kernels
become plans; what they cannot hold is called between them. The inputs of a concatenation are written where it
wants them, so that nothing is left to copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fastcnn.core import layout, native
from fastcnn.core.backend import current_backend
from fastcnn.core.plan import Arenas, Buffer, Plan, PlanBuilder, View
from fastcnn.optimize import lower
from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Node
from fastcnn.optimize.report import Row


class Unknown(Exception):
    """The shapes cannot be learned ahead of time; the message says why."""


def shapes(module: fx.GraphModule, inputs: Sequence[Any]) -> dict[Node, Any]:
    """The value of every node, tensors without data. Raises Unknown where one depends on another's data."""
    meta: dict[Node, Any] = {}
    given = iter(inputs)
    with torch.no_grad():
        for node in module.graph.nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), meta.__getitem__)
            try:
                meta[node] = _meta_value(module, node, args, kwargs, given)
            except Exception as error:
                raise Unknown(f"{node.name}: {error}") from error
    return meta


def _meta_value(module: fx.GraphModule, node: Node, args: Any, kwargs: Any, given: Any) -> Any:
    if node.op == "placeholder":
        return _to_meta(next(given))
    if node.op == "get_attr":
        return _to_meta(attribute(module, str(node.target)))
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
        return torch.func.functional_call(layer, {k: _to_meta(t) for k, t in tensors.items()}, args, kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return args[0] if node.op == "output" else node.target(*args, **kwargs)


def _to_meta(value: Any) -> Any:
    return value.detach().to("meta") if isinstance(value, Tensor) else value


def attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _has_tensor(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    if isinstance(value, dict):
        return any(map(_has_tensor, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_tensor, value))


# ---- steps -------------------------------------------------------------------------------------------------

Values = dict[Node, Any]


@dataclass
class TorchStep:
    """One node, run by PyTorch or by fastcnn's own dispatch."""

    node: Node
    function: Any
    frees: tuple[Node, ...] = ()

    def run(self, values: Values) -> None:
        args, kwargs = fx.map_arg((self.node.args, self.node.kwargs), values.__getitem__)
        values[self.node] = self.function(*args, **kwargs)


@dataclass
class Output:
    """Memory that a plan writes and others read, and the values in it."""

    bytes: int
    dtype: torch.dtype
    values: list[tuple[Node, tuple[int, ...], tuple[int, ...], int]]  # node, shape, strides, offset

    def allocate(self, values: Values) -> int:
        """Makes the memory and the values in it; returns its address."""
        if len(self.values) == 1:
            node, shape, strides, offset = self.values[0]
            if offset == 0 and math.prod(shape) * self.dtype.itemsize == self.bytes:
                memory = values[node] = torch.empty_strided(shape, strides, dtype=self.dtype)
                return memory.data_ptr()
        memory = torch.empty(self.bytes // self.dtype.itemsize, dtype=self.dtype)
        for node, shape, strides, offset in self.values:
            values[node] = memory.as_strided(shape, strides, offset)
        return memory.data_ptr()


@dataclass
class PlanStep:
    """One plan."""

    plan: Plan
    inputs: tuple[tuple[Node, bool], ...]  # each with whether it may have to be brought into the layout of plans
    outputs: tuple[Output, ...]
    arenas: Arenas
    threads: int
    frees: tuple[Node, ...] = ()
    alone: bool = False  # PyTorch computes nothing before or after it

    def __post_init__(self) -> None:
        self.arena_bytes = self.plan.arena_bytes(self.threads)

    def run(self, values: Values) -> None:
        inputs = [_dense(values[node]) if convert else values[node] for node, convert in self.inputs]
        addresses = [x.data_ptr() for x in inputs]
        outputs = [output.allocate(values) for output in self.outputs]
        arena = self.arenas.take(self.arena_bytes)
        try:
            if torch.autograd._profiler_enabled():
                with torch.profiler.record_function("fastcnn::plan"):
                    self.plan.native.run(addresses, outputs, arena.data_ptr(), self.threads, self.alone)
            else:
                self.plan.native.run(addresses, outputs, arena.data_ptr(), self.threads, self.alone)
        finally:
            self.arenas.give_back(arena)


def _dense(x: Tensor) -> Tensor:
    """The tensor as a plan reads it: channels last, or rows, without gaps."""
    return (
        x
        if _is_dense(x)
        else x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.contiguous_format)
    )


def _is_dense(x: Any) -> bool:
    if not isinstance(x, Tensor):
        return True
    return x.is_contiguous() if x.dim() != 4 else layout.pixel_stride(x) == x.shape[1]


def _is_channels_first(x: Any) -> bool:
    """Whether an input lies in (N, C, H, W) order and no other."""
    return isinstance(x, Tensor) and x.dim() == 4 and x.is_contiguous() and layout.pixel_stride(x) is None


def _strides(shape: Sequence[int], view: View) -> tuple[int, ...]:
    if len(shape) == 2:
        return view.stride, 1
    _, _, H, W = shape
    return H * W * view.stride, 1, W * view.stride, view.stride


class Program:
    """Runs the network on inputs of one set of shapes and strides. Immutable: several threads may run it at once."""

    def __init__(
        self,
        module: fx.GraphModule,
        inputs: Sequence[Any],
        weights: lower.PackedWeights,
        arenas: Arenas,
        fused: dict[str, list[str]],
        alone: bool,
    ) -> None:
        self._module, self._weights, self._arenas, self._fused = module, weights, arenas, fused
        self._threads = torch.get_num_threads()
        self.on_cuda = any(isinstance(x, Tensor) and x.is_cuda for x in inputs)
        self._placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        (self._output,) = (node for node in module.graph.nodes if node.op == "output")
        self._meta = shapes(module, inputs)
        self._tensors = {
            str(node.target): attribute(module, str(node.target))
            for node in module.graph.nodes
            if node.op == "get_attr"
        }
        # Inputs that lie as (N, C, H, W) in memory: the plan brings them into channels_last order.
        self._images = {p for p, x in zip(self._placeholders, inputs, strict=True) if _is_channels_first(x)}
        self._read_in_place = self._images | {
            p for p, x in zip(self._placeholders, inputs, strict=True) if _is_dense(x)
        }
        self._constants: Values = {}
        self._steps: list[TorchStep | PlanStep] = []
        self.rows: list[Row] = []
        self._compile(self._global_reason(inputs))
        if alone and len(self._steps) == 1 and isinstance(self._steps[0], PlanStep):
            self._steps[0].alone = True
        del self._meta

    def __call__(self, inputs: Sequence[Any]) -> Any:
        values = self._constants.copy()
        values.update(zip(self._placeholders, inputs, strict=True))
        for step in self._steps:
            step.run(values)
            for node in step.frees:
                del values[node]
        result = self._output.args[0]
        return values[result] if isinstance(result, fx.Node) else fx.map_arg(result, values.__getitem__)

    @property
    def plans(self) -> list[Plan]:
        return [step.plan for step in self._steps if isinstance(step, PlanStep)]

    # ---- compiling -----------------------------------------------------------------------------------------

    def _global_reason(self, inputs: Sequence[Any]) -> str | None:
        """Why nothing of this program can be a plan; None if something can."""
        tensors = [*self._tensors.values(), *(x for x in inputs if isinstance(x, Tensor))]
        if any(t.device.type != "cpu" for t in tensors):
            return "not on the CPU: fastcnn's dispatch runs it"
        if current_backend() not in ("auto", "cpu"):
            return f"backend {current_backend()!r} was demanded"
        if any(isinstance(m, Tensor) and m.numel() == 0 for m in self._meta.values()):
            return "a tensor is empty"
        return lower.unavailable()

    def _compile(self, against: str | None) -> None:
        segment: list[Node] = []
        for node in self._module.graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            if node.op == "get_attr":
                self._constants[node] = self._tensors[str(node.target)]
            elif not _has_tensor(self._meta[node]):
                self._constants[node] = self._meta[node]
            else:
                reason = against or lower.reason_against(node, self._meta)
                if reason is None:
                    segment.append(node)
                    continue
                self._add_segment(segment)
                segment = []
                self._add_torch(node, reason)
        self._add_segment(segment)
        self._free_early()

    def _add_torch(self, node: Node, reason: str) -> None:
        self._steps.append(TorchStep(node, self._function(node)))
        self._row(node, "PyTorch" if node.target not in vars(v).values() else "fastcnn's dispatch", reason)

    def _function(self, node: Node) -> Any:
        if node.op == "call_module":
            return self._module.get_submodule(str(node.target))
        if node.op == "call_method":
            name = str(node.target)
            return lambda tensor, *args, **kwargs: getattr(tensor, name)(*args, **kwargs)
        return node.target

    def _add_segment(self, nodes: list[Node]) -> None:
        if all(lower.is_view(node, self._meta) for node in nodes):
            for node in nodes:
                self._add_torch(node, "a view is not worth a plan")
            return
        inside = set(nodes)
        views: dict[Node, View] = {}
        # Weights and shapes are constants: what else comes from outside are the plan's inputs.
        read = dict.fromkeys(
            a for n in nodes for a in n.all_input_nodes if a not in inside and a not in self._constants
        )
        slices = self._slices([*read, *nodes])
        meta = self._meta.copy()
        for node in (*read, *nodes):
            meta[node] = meta[node][: len(meta[node]) // slices]
        for node in read:
            x = meta[node]
            views[node] = View(Buffer(x.numel() * x.element_size()), 0, x.shape[1])
        inputs = [views[node].buffer for node in read]
        images = [(node, views[node]) for node in read if node in self._images]
        for node, raw in images:
            views[node] = View(Buffer(raw.buffer.bytes), 0, raw.stride)
        _place(nodes, inside, meta, views)
        outputs: dict[Buffer, Output] = {}
        handed_on: list[Node] = []  # views of the plan's inputs that others read: not the plan's to make
        for node in nodes:
            if any(user not in inside for user in node.users):
                view, y = views[node], self._meta[node]
                if view.buffer in inputs:
                    handed_on.append(node)
                    continue
                output = outputs.setdefault(view.buffer, Output(slices * view.buffer.bytes, y.dtype, []))
                output.values.append((node, tuple(y.shape), _strides(y.shape, view), view.offset))

        builder = PlanBuilder(inputs, list(outputs))
        threads = self._threads if slices == 1 else 1  # of an operation
        context = lower.Context(builder, meta, self._tensors, self._weights, views, threads, set())
        for node, raw in images:
            lower.emit_channels_last(context, node, raw)
            self._row(node, builder.kernels[-1], "")
        for node in nodes:
            before = len(builder.kernels)
            if node in context.absorbed:
                self._row(node, "in the convolution's kernel", "")
                continue
            if not lower.is_view(node, meta):
                lower.LOWERINGS[node.target].emit(context, node)
            self._row(node, ", ".join(builder.kernels[before:]) or "no kernel: in place", "")
        step = PlanStep(
            builder.build(slices),
            tuple((node, node not in self._read_in_place) for node in read),
            tuple(outputs.values()),
            self._arenas,
            self._threads,
        )
        self._steps.append(step)
        self._steps.extend(TorchStep(node, self._function(node)) for node in handed_on)

    def _slices(self, nodes: list[Node]) -> int:
        """Into how many equal parts a segment's batch is cut, so that a part stays in a core's cache; 1 for not at all.

        Only a small network fits with its weights. Every value must have the batch as its first dimension.
        """
        values = [self._meta[node] for node in nodes]
        batch = len(values[0])
        if batch == 1 or any(len(value) != batch for value in values):
            return 1
        weights = {a for node in nodes for a in node.all_input_nodes if a in self._constants}
        weight_bytes = sum(t.nbytes for t in map(self._constants.__getitem__, weights) if isinstance(t, Tensor))
        image_bytes = 2 * max(value.nbytes for value in values) // batch
        _, l2, _ = native.library().cpu.caches()
        images = (l2 // 2 - weight_bytes) // image_bytes
        fitting = [s for s in range(1, batch + 1) if batch % s == 0 and s >= self._threads and batch // s <= images]
        return min(fitting, default=1)

    def _free_early(self) -> None:
        """Each value is dropped after the last step that reads it."""
        last: dict[Node, int] = {}
        kept = set(self._output.all_input_nodes)
        for i, step in enumerate(self._steps):
            if isinstance(step, TorchStep):
                read, made = step.node.all_input_nodes, [step.node]
            else:
                read, made = (
                    [node for node, _ in step.inputs],
                    [value[0] for output in step.outputs for value in output.values],
                )
            last.update(dict.fromkeys((*read, *made), i))
        for i, step in enumerate(self._steps):
            step.frees = tuple(n for n, at in last.items() if at == i and n not in kept and n not in self._constants)

    def _row(self, node: Node, runs: str, reason: str) -> None:
        y = self._meta[node]
        shape = "x".join(map(str, y.shape)) if isinstance(y, Tensor) else ""
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        computes = tuple(self._fused.get(node.name, ()))
        flops = 0
        if node.target in (v.conv2d, v.linear):
            flops = 2 * y.numel() * self._meta[node.args[1]][0].numel()
        self.rows.append(Row(node.name, str(name), shape, runs, computes, reason, flops))


def _place(nodes: list[Node], inside: set[Node], meta: dict[Node, Any], views: dict[Node, View]) -> None:
    """Finds every value of a segment its place: concatenations first, the last of them first.

    The last concatenation of a DenseNet block holds all the earlier ones: once its inputs are placed in it, an
    earlier one finds its own side by side, and needs no memory and no copy.
    """

    def own(node: Node) -> View:
        y = meta[node]
        return View(Buffer(y.numel() * y.element_size()), 0, y.shape[1])

    for node in reversed(nodes):
        if node.target is not v.concat:
            continue
        parts = node.args[0]
        if node not in views:
            together = _side_by_side(parts, meta, views)
            views[node] = together or own(node)
        whole, start = views[node], 0
        for part in parts:
            placed = part in views or part not in inside or lower.is_view(part, meta)
            if not placed:
                views[part] = View(whole.buffer, whole.offset + start, whole.stride)
            start += meta[part].shape[1]
    for node in nodes:
        if node in views:
            continue
        if not lower.is_view(node, meta):
            views[node] = own(node)
            continue
        source = views[node.args[0]]
        if node.target is not v.flatten:
            start = lower.channel_slice(node, meta) or 0
            source = View(source.buffer, source.offset + start, source.stride)
        views[node] = source


def _side_by_side(parts: Sequence[Node], meta: dict[Node, Any], views: dict[Node, View]) -> View | None:
    """Where the parts lie, if they already lie next to each other."""
    first = views.get(parts[0])
    if first is None:
        return None
    offset = first.offset
    for part in parts:
        if views.get(part) != View(first.buffer, offset, first.stride):
            return None
        offset += meta[part].shape[1]
    return first
