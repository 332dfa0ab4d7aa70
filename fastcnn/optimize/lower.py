"""Operators of the vocabulary as kernel calls of a plan: one `Lowering` an operator.

Each says for given shapes why the native CPU kernels cannot take a node (None if they do), and adds the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn import ops
from fastcnn.core import activations, native
from fastcnn.core.operator import Operator
from fastcnn.core.plan import PlanBuilder, View
from fastcnn.ops.add_relu.contract import AddReluProblem
from fastcnn.ops.add_relu.cpu import native_problem as native_add_relu
from fastcnn.ops.conv2d.cpu import native_problem as native_conv2d
from fastcnn.ops.conv2d.cpu import source_of
from fastcnn.ops.linear.contract import row_stride
from fastcnn.ops.linear.cpu import native_problem as native_linear
from fastcnn.ops.lrn.cpu import native_problem as native_lrn
from fastcnn.ops.pool.cpu import native_adaptive_avg_pool2d, native_pool2d
from fastcnn.ops.subsample2d.cpu import native_problem as native_subsample2d
from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.constants import Constants, Entry
from fastcnn.optimize.int8 import lower as int8
from fastcnn.optimize.network import Node, is_constant

CPU = torch.device("cpu")
DTYPES = (*native.DTYPES, torch.uint8)  # of values in a plan


class Context(NamedTuple):
    """What a lowering needs: shapes, constants, and where the values of the segment lie."""

    builder: PlanBuilder
    meta: dict[Node, Any]
    constants: Constants
    entry: Callable[[Node], Entry]
    prepack: bool
    batch_invariant: bool  # kernels are chosen by one image and one thread
    views: dict[Node, View]
    threads: int
    absorbed: set[Node]  # nodes that the kernel of an earlier one computes

    def place(self, node: Node | None) -> tuple[int, int] | None:
        return None if node is None else self.builder.place(self.views[node], self.meta[node].element_size())

    def stride(self, node: Node) -> int:
        return self.views[node].stride

    def constant(self, node: Node | None) -> int:
        """The address of a bias or another constant, contiguous and in float32."""
        if node is None:
            return 0
        return self.builder.constant(self.constants.form(self.entry(node), "float32", _float32))

    def packed(self, node: Node, kernel: Any, *format: Hashable) -> int:
        """The address of a weight as the kernel reads it."""

        def fill(weight: Tensor, memory: Tensor) -> None:
            source, form = source_of(weight)
            kernel.pack(source.data_ptr(), memory.data_ptr(), form, torch.get_num_threads())

        def memory() -> Tensor:
            return torch.empty(kernel.packed_bytes, dtype=torch.uint8)

        return self.builder.constant(self.constants.filled(self.entry(node), format, memory, fill))

    def unpacked(self, node: Node) -> tuple[int, Any]:
        """The address of a weight that is not packed, and its form."""
        source = self.constants.form(self.entry(node), "unpacked", lambda weight: source_of(weight)[0])
        return self.builder.constant(source), source_of(source)[1]

    def rows(self, node: Node) -> Tensor:
        """A matrix whose rows a kernel can read."""
        return self.constants.form(self.entry(node), "rows", _rows_of)


def _float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32).contiguous()


def _rows_of(matrix: Tensor) -> Tensor:
    return matrix.contiguous() if row_stride(matrix) is None else matrix


class Lowering(NamedTuple):
    reason: Callable[[Node, dict[Node, Any]], str | None]
    emit: Callable[[Context, Node], None]


# ---- which nodes -------------------------------------------------------------------------------------------


# The arguments that are weights, by their places: constants in a kernel's own form, not values of the plan.
WEIGHTS: dict[Any, tuple[int, ...]] = {
    v.conv2d: (1, 2), v.linear: (1, 2), v.affine: (1, 2), v.subsample2d: (1, 2), v.rbf: (1,)
}  # fmt: skip


WEIGHTS |= int8.WEIGHTS


def operands(node: Node) -> list[Node]:
    """The values that a node reads, its weights left out."""
    weights = {id(node.args[i]) for i in WEIGHTS.get(node.target, ()) if i < len(node.args)}
    return [a for a in node.all_input_nodes if id(a) not in weights]


def reason_against(node: Node, meta: dict[Node, Any]) -> str | None:
    """Why a node cannot be part of a plan; None if it can."""
    if is_view(node, meta):
        return None
    if node.target in int8.EMITS:
        return None
    lowering = LOWERINGS.get(node.target)
    if lowering is None:
        return "no operator of fastcnn"
    y = meta[node]
    if not isinstance(y, Tensor) or y.dtype not in DTYPES:
        return f"{getattr(y, 'dtype', type(y))} has no native kernel"
    if any(meta[a].dtype != y.dtype for a in operands(node)):
        return "the inputs' dtypes differ"
    if not all(node.args[i] is None or is_constant(node.args[i]) for i in WEIGHTS.get(node.target, ())):
        return "the weight is computed"
    return lowering.reason(node, meta)


def is_view(node: Node, meta: dict[Node, Any]) -> bool:
    """Whether a node shows its input's memory: an image of one pixel as a row, a row as such, a slice of channels."""
    if node.target not in (v.flatten, v.image, v.channels, v.adaptive_avg_pool2d):
        return False
    x = meta[node.args[0]]
    if x.dtype not in DTYPES or is_constant(node.args[0]):
        return False
    if node.target is v.flatten:
        return tuple(x.shape[2:]) == (1, 1)
    return node.target is not v.adaptive_avg_pool2d or meta[node].shape == x.shape


def _image(node: Node, meta: dict[Node, Any]) -> str | None:
    x = meta[node.args[0]]
    return None if isinstance(x, Tensor) and x.dim() == 4 else "the input is not (N, C, H, W)"


def _rows(node: Node, meta: dict[Node, Any]) -> str | None:
    return None if meta[node.args[0]].dim() == 2 else "the input is not (N, features)"


# ---- conv2d and linear ---------------------------------------------------------------------------------------


def _conv2d_problem(node: Node, meta: dict[Node, Any]) -> Any:
    tensors = [None if a is None else meta[a] for a in node.args]
    k = node.kwargs
    params = (k["stride"], k["padding"], k["dilation"], k["groups"], k["activation"])
    return ops.conv2d.infer((*tensors, None), params)._replace(device=CPU)


def _conv2d_reason(node: Node, meta: dict[Node, Any]) -> str | None:
    x, residual = meta[node.args[0]], None if node.args[3] is None else meta[node.args[3]]
    if x.dim() != 4:
        return "the input is not (N, C, H, W)"
    if residual is not None and residual.shape != meta[node].shape:
        return "the addition broadcasts"
    return None if _algorithm(_conv2d_problem(node, meta)) else "no native kernel takes it"


def _algorithm(problem: Any) -> str | None:
    for candidate in ops.conv2d.candidates:
        if candidate.backend == "cpu" and candidate.supports(problem) is None:
            return candidate.name
    return None


def _emit_conv2d(c: Context, node: Node) -> None:
    x, weight, bias, residual = node.args
    problem = _conv2d_problem(node, c.meta)._replace(
        x_stride=c.stride(x),
        y_stride=c.stride(node),
        residual_stride=0 if residual is None else c.stride(residual),
        threads=c.threads,
    )
    name = _algorithm(problem._replace(N=1, threads=1) if c.batch_invariant else problem) or ""
    pools = name.startswith("winograd") and residual is None and activations.increasing(problem.activation)
    pool = _pool_of_blocks(c, node) if pools else None
    if pool is not None:
        c.absorbed.add(pool)
        problem = problem._replace(y_stride=c.stride(pool))
    kernel = native.extension.cpu.Conv2d(native_conv2d(problem), name, max_pool=pool is not None)
    y = node if pool is None else pool
    label = name if pool is None else f"{name} + max_pool2d"
    if c.prepack:
        # What a packed form depends on beside the weight: see fastcnn/ops/conv2d/cpu.py.
        address = c.packed(weight, kernel, name, native.extension.cpu.isa(), problem.groups)
        form = native.extension.cpu.WeightForm.packed
    else:
        address, form = c.unpacked(weight)
        label += ", packed on each call"
    tensors = c.place(x), address, form, c.constant(bias), c.place(residual), c.place(y)
    c.builder.call("conv2d", kernel, *tensors, kernel=label)


def _pool_of_blocks(c: Context, conv: Node) -> Node | None:
    """The max-pool over 2x2 blocks that alone reads a convolution."""
    pool = next(iter(conv.users))
    if len(conv.users) != 1 or pool.target is not v.max_pool2d or pool not in c.views:
        return None
    options = ops.max_pool2d.normalise((c.meta[conv],), _keywords(*MAX_POOL)(pool))
    return pool if options == ((2, 2), (2, 2), (0, 0), (1, 1), False) else None


def _linear_reason(node: Node, meta: dict[Node, Any]) -> str | None:
    x, weight = meta[node.args[0]], meta[node.args[1]]
    bias = None if node.args[2] is None else meta[node.args[2]]
    if x.dim() != 2 or weight.dim() != 2 or (bias is not None and tuple(bias.shape) != (weight.shape[0],)):
        return "the input is not (N, features)"
    return None


def _emit_linear(c: Context, node: Node) -> None:
    x, weight, bias = node.args
    tensors = [None if a is None else c.meta[a] for a in node.args]
    problem = ops.linear.infer((*tensors, None), (node.kwargs["activation"],))
    struct = native_linear(problem)
    rows = c.rows(weight)
    struct.x_stride, struct.weight_stride, struct.y_stride = c.stride(x), rows.stride(0), c.stride(node)
    c.builder.call("linear", struct, c.place(x), c.builder.constant(rows), c.constant(bias), c.place(node))


# ---- one image in, one image out -----------------------------------------------------------------------------


def _unary(op: Any, kernel: str, struct: Callable[[Any], Any], params: Callable[[Node], tuple[Any, ...]]) -> Lowering:
    def emit(c: Context, node: Node) -> None:
        x = node.args[0]
        canonical = op.normalise((c.meta[x],), params(node))
        problem = op.infer((c.meta[x], None), canonical)
        problem = struct(problem._replace(device=CPU, x_stride=c.stride(x), y_stride=c.stride(node)))
        c.builder.call(kernel, problem, c.place(x), c.place(node))

    return Lowering(_image, emit)


def _emit_lrn_max_pool2d(c: Context, node: Node) -> None:
    x = node.args[0]
    structs = []
    pair: tuple[tuple[Operator[Any], Callable[[Any], Any], tuple[str, ...]], ...] = (
        (ops.local_response_norm, native_lrn, LRN),
        (ops.max_pool2d, native_pool2d, MAX_POOL),
    )
    for op, struct, keywords in pair:
        canonical = op.normalise((c.meta[x],), _keywords(*keywords)(node))
        problem = op.infer((c.meta[x], None), canonical)
        structs.append(struct(problem._replace(device=CPU, x_stride=c.stride(x), y_stride=c.stride(node))))
    c.builder.call("lrn_max_pool2d", *structs, c.place(x), c.place(node))


LRN = ("size", "alpha", "beta", "k")
MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")


def _keywords(*names: str) -> Callable[[Node], tuple[Any, ...]]:
    return lambda node: tuple(node.kwargs[name] for name in names)


def _affine(kernel_size: Callable[[Node], int]) -> Lowering:
    """act(scale * sum over blocks + shift): subsample2d, and with blocks of one pixel a batch normalisation."""

    def emit(c: Context, node: Node) -> None:
        x, scale, shift = node.args
        dtype = c.meta[x].dtype
        tensors = (c.meta[x], c.meta[scale].to(dtype), c.meta[shift].to(dtype), None)
        problem = ops.subsample2d.infer(tensors, (kernel_size(node), node.kwargs["activation"]))
        struct = native_subsample2d(problem._replace(device=CPU, x_stride=c.stride(x), y_stride=c.stride(node)))
        c.builder.call("subsample2d", struct, c.place(x), c.constant(scale), c.constant(shift), c.place(node))

    return Lowering(_image, emit)


# ---- the rest ------------------------------------------------------------------------------------------------


def _elementwise(c: Context, function: str, a: Node, b: Node | None, y: Node) -> None:
    like = c.meta[y]
    pixels = like.numel() // like.shape[1]
    problem = native.struct(
        native.extension.ElementwiseProblem,
        dtype=like.dtype, function=getattr(native.extension.Elementwise, function), pixels=pixels, C=like.shape[1],
        a_stride=c.stride(a), b_stride=0 if b is None else c.stride(b), y_stride=c.stride(y),
        pixels_per_image=pixels // like.shape[0],
    )  # fmt: skip
    c.builder.call("elementwise", problem, c.place(a), c.place(b), c.place(y), kernel=function)


def _activate_reason(node: Node, meta: dict[Node, Any]) -> str | None:
    kind = node.kwargs["activation"]
    if not hasattr(native.extension.Elementwise, kind):
        return f"{kind} has no native kernel"
    return None if meta[node].dim() in (2, 4) else "the input is not (N, C, H, W)"


def _emit_activate(c: Context, node: Node) -> None:
    _elementwise(c, node.kwargs["activation"], node.args[0], None, node)


def _add_reason(node: Node, meta: dict[Node, Any]) -> str | None:
    a, b = (meta[t] for t in node.args)
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
        return "the addition broadcasts"
    return None if a.dim() in (2, 4) else "the inputs are not (N, C, H, W)"


def _emit_add(c: Context, node: Node) -> None:
    a, b = node.args
    if node.kwargs["activation"] is None:
        return _elementwise(c, "add", a, b, node)
    shape = tuple(c.meta[node].shape)
    image = shape if len(shape) == 4 else (*shape, 1, 1)
    strides = c.stride(a), c.stride(b), c.stride(node)
    problem = native_add_relu(AddReluProblem(CPU, c.meta[node].dtype, image, False, *strides, c.threads))
    c.builder.call("add_relu", problem, c.place(a), c.place(b), c.place(node))


def _emit_multiply(c: Context, node: Node) -> None:
    image, gate = node.args
    _elementwise(c, "scale_channels", image, gate, node)


def _concat_reason(node: Node, meta: dict[Node, Any]) -> str | None:
    return None if all(meta[t].dim() == 4 for t in node.args[0]) else "the inputs are not (N, C, H, W)"


def emit_copy(c: Context, source: View, target: View, like: Tensor) -> None:
    """Copies an image's channels to another place."""
    N, C, H, W = like.shape
    size = like.element_size()
    problem = native.struct(
        native.extension.CopySliceProblem,
        element_size=size, pixels=N * H * W, C=C, x_stride=source.stride, y_stride=target.stride,
    )  # fmt: skip
    c.builder.call("copy_slice", problem, c.builder.place(source, size), c.builder.place(target, size))


def emit_channels_last(c: Context, node: Node, raw: View) -> None:
    """Brings a contiguous (N, C, H, W) input to its place, in channels_last order."""
    x = c.meta[node]
    N, C, H, W = x.shape
    problem = native.struct(
        native.extension.LayoutProblem, element_size=x.element_size(), N=N, H=H, W=W, C=C, pixel_stride=c.stride(node)
    )
    c.builder.call("to_channels_last", problem, c.builder.place(raw, x.element_size()), c.place(node))


def _emit_flatten(c: Context, node: Node) -> None:
    # The image moves into the order of the weights: the other way round, VGG's would be held twice, 411 MB more.
    image = node.args[0]
    N, C, H, W = c.meta[image].shape
    problem = native.struct(
        native.extension.LayoutProblem,
        element_size=c.meta[image].element_size(), N=N, H=H, W=W, C=C, pixel_stride=c.stride(image),
    )  # fmt: skip
    c.builder.call("to_channels_first", problem, c.place(image), c.place(node))


def _emit_concat(c: Context, node: Node) -> None:
    whole, start = c.views[node], 0
    for tensor in node.args[0]:
        place = View(whole.buffer, whole.offset + start, whole.stride)
        if c.views[tensor] != place:
            emit_copy(c, c.views[tensor], place, c.meta[tensor])
        start += c.meta[tensor].shape[1]


def _emit_rbf(c: Context, node: Node) -> None:
    x, centers = node.args
    problem = ops.rbf.infer((c.meta[x], c.meta[centers], None), ())
    struct = native.struct(
        native.extension.RbfProblem,
        dtype=problem.dtype, N=problem.N, D=problem.D, M=problem.M, x_stride=c.stride(x), y_stride=c.stride(node),
    )  # fmt: skip
    c.builder.call("rbf", struct, c.place(x), c.constant(centers), c.place(node))


LOWERINGS: dict[Any, Lowering] = {
    v.conv2d: Lowering(_conv2d_reason, _emit_conv2d),
    v.linear: Lowering(_linear_reason, _emit_linear),
    v.affine: _affine(lambda node: 1),
    v.subsample2d: _affine(lambda node: node.kwargs["kernel_size"]),
    v.max_pool2d: _unary(
        ops.max_pool2d, "pool2d", native_pool2d, _keywords(*MAX_POOL)
    ),
    v.avg_pool2d: _unary(
        ops.avg_pool2d, "pool2d", native_pool2d,
        _keywords("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    v.adaptive_avg_pool2d: _unary(
        ops.adaptive_avg_pool2d, "adaptive_avg_pool2d", native_adaptive_avg_pool2d, _keywords("output_size")
    ),
    v.image_mean: _unary(
        ops.adaptive_avg_pool2d, "adaptive_avg_pool2d", native_adaptive_avg_pool2d, lambda node: (1,)
    ),
    v.local_response_norm: _unary(
        ops.local_response_norm, "lrn", native_lrn, _keywords(*LRN)
    ),
    v.lrn_max_pool2d: Lowering(_image, _emit_lrn_max_pool2d),
    v.activate: Lowering(_activate_reason, _emit_activate),
    v.add: Lowering(_add_reason, _emit_add),
    v.multiply: Lowering(_image, _emit_multiply),
    v.concat: Lowering(_concat_reason, _emit_concat),
    v.flatten: Lowering(_image, _emit_flatten),
    v.rbf: Lowering(_rows, _emit_rbf),
}  # fmt: skip


LOWERINGS |= {target: Lowering(_image, emit) for target, emit in int8.EMITS.items()}
