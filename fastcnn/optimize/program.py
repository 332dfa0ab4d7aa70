"""A network at one set of input shapes: plans, and calls of PyTorch between them.

Runs of operators with native CPU kernels become plans; what they cannot hold is called between them. The inputs of a
concatenation are written where it wants them, so that nothing is left to copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from fastcnn import ops
from fastcnn.core import layout, native
from fastcnn.core.backend import current_backend
from fastcnn.core.plan import Buffer, Plan, PlanBuilder, View
from fastcnn.core.recall import profiler_enabled
from fastcnn.optimize import lower
from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.constants import Constants, Entry
from fastcnn.optimize.network import Network, Node, is_constant, value
from fastcnn.optimize.report import Row
from fastcnn.optimize.results import Move, moves

# ---- steps -------------------------------------------------------------------------------------------------

Values = dict[Any, Any]


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

    @cached_property
    def whole(self) -> bool:
        """Whether the one value in it fills it."""
        (_, shape, _, offset), *others = self.values
        return not others and offset == 0 and math.prod(shape) * self.dtype.itemsize == self.bytes

    def empty(self) -> Tensor:
        _, shape, strides, _ = self.values[0]
        return torch.empty_strided(shape, strides, dtype=self.dtype)

    def allocate(self, values: Values) -> int:
        """Makes the memory and the values in it; returns its address."""
        if self.whole:
            memory = values[self.values[0][0]] = self.empty()
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
    arenas: Any
    threads: int
    frees: tuple[Node, ...] = ()
    alone: bool = False  # PyTorch computes nothing before or after it

    def run(self, values: Values) -> None:
        inputs = [_dense(values[node]) if convert else values[node] for node, convert in self.inputs]
        addresses, outputs = [x.data_ptr() for x in inputs], [output.allocate(values) for output in self.outputs]
        with _profiled():
            self.plan.native.run(addresses, outputs, self.arenas, self.threads, self.alone)

    @cached_property
    def _call(self) -> Any:
        """The plan as a native call that makes its output: for a plan of one whole output, in its inputs' dtype."""
        _, shape, strides, _ = self.outputs[0].values[0]
        return self.plan.native.call(len(self.inputs), self.arenas, self.threads, self.alone, (shape, strides))

    def output_of(self, given: Sequence[Tensor]) -> Tensor:
        """The one output for inputs in their order."""
        inputs = [_dense(x) if convert else x for x, (_, convert) in zip(given, self.inputs, strict=True)]
        with _profiled():
            result: Tensor = self._call(*inputs, None)
            return result


def _profiled() -> AbstractContextManager[Any]:
    return torch.profiler.record_function("fastcnn::plan") if profiler_enabled() else _UNSEEN


_UNSEEN = nullcontext()


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
    """Runs a network on inputs of one form. Several threads may run it at once."""

    def __init__(
        self,
        network: Network,
        inputs: Sequence[Tensor],
        constants: Constants,
        arenas: Any,
        prepack: bool,
        batch_invariant: bool = False,
    ) -> None:
        self._network, self._arenas = network, arenas
        self._prepack, self._batch_invariant = prepack, batch_invariant
        self._store = constants
        self._threads = torch.get_num_threads()
        self.on_cuda = any(x.is_cuda for x in inputs)
        nodes = list(network.graph.nodes)
        self._placeholders = [node for node in nodes if node.op == "placeholder"]
        self._results = nodes[-1].args[0]
        self._meta = {node: value(node) for node in nodes[:-1]}
        # Inputs that lie as (N, C, H, W) in memory: the plan brings them into channels_last order.
        self._images = {p for p, x in zip(self._placeholders, inputs, strict=True) if _is_channels_first(x)}
        self._read_in_place = self._images | {
            p for p, x in zip(self._placeholders, inputs, strict=True) if _is_dense(x)
        }
        self._constants: Values = {}
        self._steps: list[TorchStep | PlanStep] = []
        self.rows: list[Row] = []
        self._alone: PlanStep | None = None
        self._moves: list[Move] = []  # so that results lie and share memory as the model's do
        self._compile(self._global_reason(inputs))
        constants.release()
        if len(self._steps) == 1 and isinstance(self._steps[0], PlanStep):
            self._steps[0].alone = True
        self._free_early()
        del self._meta, self._network

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """The results, in the network's order."""
        if self._alone is not None:
            return [self._alone.output_of(inputs)]
        values = self._constants.copy()
        values.update(zip(self._placeholders, inputs, strict=True))
        for step in self._steps:
            step.run(values)
            for node in step.frees:
                del values[node]
        results = [values[node] for node in self._results]
        for move in self._moves:
            move.run(inputs, results)
        return results

    @property
    def plans(self) -> list[Plan]:
        return [step.plan for step in self._steps if isinstance(step, PlanStep)]

    def settle(self, inputs: Sequence[Tensor], model_gave: Sequence[Tensor], forms: Sequence[Tensor]) -> list[Any]:
        """Runs once and sees to it that results lie and share memory as the model's do: see `moves`."""
        results = self(inputs)
        self._moves = moves(inputs, results, model_gave, forms, self._frozen)
        self._alone = self._only_step()
        return self(inputs) if self._moves else results

    def _only_step(self) -> PlanStep | None:
        """The plan that is the whole network, its inputs in order and its one result: no table of values is needed."""
        if len(self._steps) != 1 or self._moves or not isinstance(self._steps[0], PlanStep):
            return None
        step = self._steps[0]
        if len(step.outputs) != 1 or not step.outputs[0].whole or [n for n, _ in step.inputs] != self._placeholders:
            return None
        node = step.outputs[0].values[0][0]
        same_dtype = value(step.inputs[0][0]).dtype == step.outputs[0].dtype
        return step if [node] == list(self._results) and same_dtype else None

    # ---- compiling -----------------------------------------------------------------------------------------

    def _global_reason(self, inputs: Sequence[Any]) -> str | None:
        """Why nothing of this program can be a plan; None if something can."""
        tensors = [*self._network.attributes.values(), *inputs]
        if any(t.device.type != "cpu" for t in tensors):
            return "not on the CPU: fastcnn's dispatch runs it"
        if current_backend() not in ("auto", "cpu"):
            return f"backend {current_backend()!r} was demanded"
        return native.unavailable

    def _compile(self, against: str | None) -> None:
        segment: list[Node] = []
        for node in self._network.graph.nodes:
            if node.op in ("placeholder", "output") or is_constant(node):
                continue
            reason = against or self._reason_against(node)
            if reason is None:
                segment.append(node)
                continue
            self._add_segment(segment)
            segment = []
            self._add_torch(node, reason)
        self._add_segment(segment)
        for node in self._results:
            self._hold(node)
        # Computed once, and given away on each call.
        self._frozen = {
            i
            for i, node in enumerate(self._results)
            if is_constant(node) and node.op != "get_attr" and self._entry(node).own
        }

    def _reason_against(self, node: Node) -> str | None:
        touched = [self._meta[n] for n in (node, *lower.operands(node))]
        if any(isinstance(m, Tensor) and m.numel() == 0 for m in touched):
            return "a tensor is empty"
        return lower.reason_against(node, self._meta)

    def _entry(self, node: Node) -> Entry:
        return self._store.entry(self._network, node)

    def _hold(self, node: Node) -> None:
        """Keeps a constant's value for steps of PyTorch and as a result."""
        if is_constant(node) and node not in self._constants:
            self._constants[node] = self._store.value(self._entry(node), hold=True)

    def _add_torch(self, node: Node, reason: str) -> None:
        for argument in node.all_input_nodes:
            self._hold(argument)
        self._steps.append(TorchStep(node, node.target))
        self._row(node, "PyTorch" if node.target not in vars(v).values() else "fastcnn's dispatch", reason)

    def _add_segment(self, nodes: list[Node]) -> None:
        if all(lower.is_view(node, self._meta) for node in nodes):
            for node in nodes:
                self._add_torch(node, "a view is not worth a plan")
            return
        inside = set(nodes)
        views: dict[Node, View] = {}
        # What the segment reads and does not make: values of other steps, inputs and constants.
        read = list(dict.fromkeys(a for n in nodes for a in lower.operands(n) if a not in inside))
        slices = self._slices([*read, *nodes])
        meta = self._meta.copy()
        for node in (*read, *nodes):
            meta[node] = meta[node][: len(meta[node]) // slices]
        for node in read:
            x = meta[node]
            views[node] = View(Buffer(x.numel() * x.element_size()), 0, x.shape[1])
            if is_constant(node):
                self._constants["operand", node] = self._store.form(self._entry(node), "operand", _dense)
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
        context = lower.Context(
            builder, meta, self._store, self._entry, self._prepack, self._batch_invariant, views, threads, set()
        )
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
            tuple(
                (("operand", node), False) if is_constant(node) else (node, node not in self._read_in_place)
                for node in read
            ),
            tuple(outputs.values()),
            self._arenas,
            self._threads,
        )
        self._steps.append(step)
        self._steps.extend(TorchStep(node, node.target) for node in handed_on)

    def _slices(self, nodes: list[Node]) -> int:
        """Into how many equal parts a segment's batch is cut, so that a part stays in a core's cache; 1 for not at all.

        Only a small network fits with its weights. Every value must have the batch as its first dimension.
        """
        values = [self._meta[node] for node in nodes]
        batch = len(values[0])
        if batch == 1 or any(len(x) != batch for x in values):
            return 1
        weights = {a: _nbytes(value(a)) for n in nodes for a in n.all_input_nodes if is_constant(a)}
        weight_bytes = sum(weights.values())
        image_bytes = 2 * max(x.nbytes for x in values) // batch
        _, l2, _ = native.extension.cpu.caches()
        images = (l2 // 2 - weight_bytes) // image_bytes
        fitting = [s for s in range(1, batch + 1) if batch % s == 0 and s >= self._threads and batch // s <= images]
        return min(fitting, default=1)

    def _free_early(self) -> None:
        """Each value is dropped after the last step that reads it."""
        last: dict[Node, int] = {}
        kept = set(self._results)
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
        computes = self._network.labels(node)
        self.rows.append(Row(node.name, str(name), shape, runs, computes, reason, self._flops(node)))

    def _flops(self, node: Node) -> int:
        """2 * outputs * inputs of one, of a convolution or linear layer; of a stem those before its pool."""
        if node.target is v.conv2d_max_pool2d:
            x, weight, _ = (self._meta.get(a) for a in node.args)
            names = ("conv_stride", "conv_padding", "conv_dilation", "groups", "activation")
            params = ops.conv2d.normalise((x, weight), tuple(node.kwargs[name] for name in names))
            outputs = math.prod(ops.conv2d.infer((x, weight, None, None, None), params).output_shape)
        elif node.target in (v.conv2d, v.linear):
            outputs = self._meta[node].numel()
        else:
            return 0
        return 2 * outputs * self._meta[node.args[1]][0].numel()


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
        views[node] = View(source.buffer, source.offset + node.kwargs.get("start", 0), source.stride)


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


def _nbytes(value: Any) -> int:
    return value.nbytes if isinstance(value, Tensor) else sum(map(_nbytes, value))
