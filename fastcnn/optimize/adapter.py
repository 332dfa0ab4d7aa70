"""ATen's operators, and fastcnn's own, as calls of the vocabulary; what has no counterpart stays and runs as it is.

One table. Each rule has the arguments of the ATen operators that it stands for, by their names in the schema, after
the network and the node; it returns the node that takes the node's place, or None where no counterpart serves.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from fastcnn.core import activations
from fastcnn.ops.conv2d import contract as conv2d_contract
from fastcnn.optimize import constants
from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, Node, is_call, is_constant, value

aten = torch.ops.aten
Rule = Callable[..., "Node | None"]


def adapt(network: Network) -> None:
    network.drop_unused()  # results of an operator that nobody reads
    _lay_out(network)
    for node in network.nodes(aten.div.Tensor):
        with network.graph.inserting_before(node):
            new = _local_response_norm(network, node, *node.args[:2])
        if new is not None:
            network.replace(node, new)
    network.drop_unused()
    for node in list(network.graph.nodes):
        if is_constant(node) or node.op != "call_function":
            continue
        with network.graph.inserting_before(node):
            new = _counterpart(network, node)
        if new is None or new is node:
            continue
        if new in node.all_input_nodes or new.op != "call_function":  # it computes nothing
            network.remove(node, new)
        else:
            network.replace(node, new)


def _counterpart(network: Network, node: Node) -> Node | None:
    if any(_is_empty(value(n)) for n in (node, *node.all_input_nodes)):
        return None  # kernels take an empty batch and nothing else that is empty; there is nothing to gain
    if node.target is operator.getitem:
        return _part(network, node)
    name = _name(node)
    rule = RULES.get(name)
    return None if rule is None else rule(network, node, **_arguments(node))


def _is_empty(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 0


def _name(node: Any) -> str:
    """The operator's name: "add" for every overload of aten::add, "fastcnn::rbf" for one of ours."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else schema.name.removeprefix("aten::")


def _arguments(node: Node) -> dict[str, Any]:
    """All arguments by the names of the schema, defaults included; `self` is called `input`."""
    schema = node.target._schema.arguments
    given = dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)
    found = {a.name: given.get(a.name, a.default_value) for a in schema}
    return {("input" if name == "self" else name): item for name, item in found.items()}


def _pair(values: Any) -> tuple[int, int]:
    values = (values,) if isinstance(values, int) else tuple(values)
    return values if len(values) == 2 else (values[0], values[0])


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(value(node).shape)


def _is_image(node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(value(node), torch.Tensor) and value(node).dim() == 4


def _is_float(node: Node) -> bool:
    return value(node).is_floating_point()


# ---- convolutions, matrices ----------------------------------------------------------------------------------


def convolution(
    n: Network, node: Node, input: Node, weight: Node, bias: Node | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, **_: Any,
) -> Node | None:  # fmt: skip
    same = all(value(t).dtype == value(input).dtype for t in (weight, bias) if t is not None)
    if transposed or not (_is_image(input) and _is_image(weight)) or not same:
        return None
    params = tuple(stride), tuple(padding), tuple(dilation), groups, None
    return _conv2d(n, node, input, weight, bias, params)


def _conv2d(n: Network, node: Node, input: Node, weight: Node, bias: Any, params: Any, residual: Any = None) -> Node:
    stride, padding, dilation, groups, activation = conv2d_contract.normalise((None, value(weight)), params)
    return n.call_like(
        node, v.conv2d, input, weight, bias, residual,
        stride=stride, padding=padding, dilation=dilation, groups=groups, activation=activation,
    )  # fmt: skip


def addmm(n: Network, node: Node, input: Node, mat1: Node, mat2: Node, beta: Any, alpha: Any) -> Node | None:
    row = _shape(input) == _shape(mat2)[1:]
    if (beta, alpha) != (1, 1) or not row or not is_constant(input):
        return None
    return _linear(n, node, mat1, mat2, input)


def mm(n: Network, node: Node, input: Node, mat2: Node) -> Node | None:
    return _linear(n, node, input, mat2, None)


def _linear(n: Network, node: Node, input: Node, matrix: Node, bias: Node | None) -> Node | None:
    """input @ matrix + bias; the matrix of a linear layer is a constant, its weight transposed."""
    if not is_constant(matrix) or is_constant(input):
        return None
    weight = matrix.args[0] if is_call(matrix, aten.t.default) else n.call(aten.t.default, matrix)
    return n.call_like(node, v.linear, input, weight, bias, activation=None)


# ---- a scale and a shift a channel ---------------------------------------------------------------------------


def batch_norm(
    n: Network, node: Node, input: Node, weight: Any, bias: Any, running_mean: Any, running_var: Any, eps: float,
    training: bool = False, momentum: float = 0.1, **_: Any,
) -> Node | None:  # fmt: skip
    """The first result, as a node that `_part` finds in its place."""
    statistics = (weight, bias, running_mean, running_var)
    if training or running_mean is None or any(t is not None and not is_constant(t) for t in statistics):
        return None
    if value(input).dim() not in (2, 4) or [user for user in node.users if not is_call(user, operator.getitem)]:
        return None
    scale = n.call(constants.batch_norm_scale, running_var, weight, eps)
    shift = n.call(constants.batch_norm_shift, scale, running_mean, bias)
    (first,) = [user for user in node.users if user.args[1] == 0] or [None]
    if first is None or len(node.users) > 1:
        return None
    affine = n.call_like(first, v.affine, input, scale, shift, activation=None)
    n.fused[affine] = n.fused.pop(node, [])
    first.replace_all_uses_with(affine)
    return None


def _channel_constant(operand: Any, image: Node) -> Any:
    """The operand as a constant number a channel, or one for all; None for anything else."""
    if isinstance(operand, int | float) and not isinstance(operand, bool):
        return operand
    if not is_constant(operand) or not isinstance(value(operand), torch.Tensor):
        return None
    t, C = value(operand), _shape(image)[1]
    shape = (1,) * (4 - t.dim()) + tuple(t.shape)
    return operand if t.dim() <= 4 and shape[0] == shape[2] == shape[3] == 1 and shape[1] in (1, C) else None


def _affine(n: Network, node: Node, image: Any, scale: Any, shift: Any) -> Node | None:
    """image * scale + shift by constants, or None."""
    if not _is_image(image) or is_constant(image) or not _is_float(image) or value(node).dtype != value(image).dtype:
        return None
    if _shape(node) != _shape(image) or value(image).dtype not in v.KERNEL_DTYPES:
        return None
    C = _shape(image)[1]
    made = [n.call(constants.per_channel, t, C) for t in (scale, shift)]
    return n.call_like(node, v.affine, image, *made, activation=None)


def add(n: Network, node: Node, input: Any, other: Any, alpha: Any = 1) -> Node | None:
    if alpha == 1:
        for tensor, number in ((input, other), (other, input)):
            if isinstance(tensor, fx.Node) and type(number) is int and number == 0 and _same_form(tensor, node):
                return tensor  # as sum() begins
    if alpha != 1 or not isinstance(input, fx.Node):
        return None
    for image, operand in ((input, other), (other, input)):
        if _is_image(image) and (shift := _channel_constant(operand, image)) is not None:
            return _affine(n, node, image, 1.0, shift)
    if isinstance(other, fx.Node) and _same_form(input, node) and _same_form(other, node) and _is_float(node):
        return n.call_like(node, v.add, input, other, activation=None)
    return None


def sub(n: Network, node: Node, input: Any, other: Any, alpha: Any = 1) -> Node | None:
    if alpha != 1 or not _is_image(input) or (shift := _channel_constant(other, input)) is None:
        return None
    return _affine(n, node, input, 1.0, n.call(constants.negative, shift) if isinstance(shift, fx.Node) else -shift)


def mul(n: Network, node: Node, input: Any, other: Any) -> Node | None:
    for image, operand in ((input, other), (other, input)):
        if _is_image(image) and (scale := _channel_constant(operand, image)) is not None:
            return _affine(n, node, image, scale, 0.0)
    if not (_is_image(input) and _is_image(other) and value(input).dtype == value(other).dtype and _is_float(node)):
        return None
    for image, gate in ((input, other), (other, input)):
        if _shape(gate) == (*_shape(image)[:2], 1, 1):
            return n.call_like(node, v.multiply, image, gate)
    return None


def div(n: Network, node: Node, input: Any, other: Any, rounding_mode: Any = None) -> Node | None:
    if rounding_mode is not None or not _is_image(input) or (scale := _channel_constant(other, input)) is None:
        return None
    if not isinstance(scale, fx.Node):
        return _affine(n, node, input, 1 / scale, 0.0) if scale else None
    return _affine(n, node, input, n.call(constants.reciprocal, scale), 0.0)


def _same_form(a: Node, b: Node) -> bool:
    return _shape(a) == _shape(b) and value(a).dtype == value(b).dtype


def _local_response_norm(n: Network, node: Node, input: Any, divisor: Any) -> Node | None:
    """input / (k + alpha * mean over neighbouring channels of input^2)^beta, as torch.nn.functional writes it."""
    found: list[Any] = []
    for name in ("pow", "add", "mul", "view", "squeeze", "avg_pool3d", "constant_pad_nd", "view", "mul"):
        if not isinstance(divisor, fx.Node) or _name(divisor) not in (name, "_unsafe_view" if name == "view" else ""):
            return None
        found.append(divisor)
        divisor = divisor.args[0]
    power, offset, factor, _, _, pool, pad, _, square = found
    size = pool.args[1][0]
    numbers = [t.args[1] for t in (factor, power, offset)]
    if square.args != (input, input) or not _is_image(input) or not all(isinstance(x, int | float) for x in numbers):
        return None
    if tuple(pool.args[1]) != (size, 1, 1) or tuple(pad.args[1]) != (0, 0, 0, 0, size // 2, (size - 1) // 2):
        return None
    alpha, beta, k = numbers
    return n.call_like(node, v.local_response_norm, input, size=size, alpha=alpha, beta=beta, k=k)


# ---- activations ---------------------------------------------------------------------------------------------


def activation(n: Network, node: Node, **arguments: Any) -> Node | None:
    input = arguments.pop("input")
    kind = activations.recognised(_name(node), arguments) if _is_float(input) else None
    return None if kind is None else n.call_like(node, v.activate, input, activation=kind)


def clamp(n: Network, node: Node, input: Node, min: Any, max: Any) -> Node | None:
    if isinstance(min, fx.Node) or isinstance(max, fx.Node) or not _is_float(input):
        return None
    kind = {(0, 6): "relu6", (0, None): "relu"}.get((min, max))
    return n.call_like(node, v.activate, input, activation=kind) if kind else None


# ---- pooling -------------------------------------------------------------------------------------------------


def max_pool2d(
    n: Network, node: Node, input: Node, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Node | None:
    """Also max_pool2d_with_indices, whose first result takes the node's place where the indices are not read."""
    if not _is_image(input) or not _is_float(input):
        return None
    options = dict(
        kernel_size=_pair(kernel_size), stride=_pair(stride or kernel_size), padding=_pair(padding),
        dilation=_pair(dilation), ceil_mode=ceil_mode,
    )  # fmt: skip
    if isinstance(value(node), torch.Tensor):
        return n.call_like(node, v.max_pool2d, input, **options)
    users = list(node.users)
    if len(users) != 1 or users[0].args[1] != 0:
        return None
    pool = n.call_like(users[0], v.max_pool2d, input, **options)
    n.fused[pool] = n.fused.pop(node, [])
    users[0].replace_all_uses_with(pool)
    return None


def avg_pool2d(
    n: Network, node: Node, input: Node, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Node | None:  # fmt: skip
    if not _is_image(input) or not _is_float(input):
        return None
    return n.call_like(
        node, v.avg_pool2d, input, kernel_size=_pair(kernel_size), stride=_pair(stride or kernel_size),
        padding=_pair(padding), ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )  # fmt: skip


def adaptive_avg_pool2d(n: Network, node: Node, input: Node, output_size: Any) -> Node | None:
    if not _is_image(input) or not _is_float(input):
        return None
    return n.call_like(node, v.adaptive_avg_pool2d, input, output_size=_pair(output_size))


def mean(n: Network, node: Node, input: Node, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Node | None:
    if not _is_image(input) or dim is None or dtype not in (None, value(input).dtype) or not _is_float(input):
        return None
    dims = {d % 4 for d in ((dim,) if isinstance(dim, int) else dim)}
    return n.call_like(node, v.image_mean, input, keepdim=keepdim) if dims == {2, 3} else None


# ---- where values lie ----------------------------------------------------------------------------------------


def concat(n: Network, node: Node, tensors: Any, dim: int = 0) -> Node | None:
    given = [t for t in tensors if _shape(t) != (0,)]  # PyTorch leaves out what is empty in this way
    if len(given) == 1 and _same_form(given[0], node):
        return given[0]
    images = all(_is_image(t) and value(t).dtype == value(node).dtype for t in given)
    return n.call_like(node, v.concat, given) if images and dim % 4 == 1 else None


def reshape(n: Network, node: Node, input: Node, size: Any = None, shape: Any = None) -> Node | None:
    if shape is None and size is None:
        return None  # a view as another dtype
    return _reshaped(n, node, input)


def squeeze(n: Network, node: Node, input: Node, dim: Any = None) -> Node | None:
    return _reshaped(n, node, input)


def _reshaped(n: Network, node: Node, input: Node) -> Node | None:
    """The same elements in the same order, in another shape."""
    before, after = _shape(input), _shape(node)
    if before == after:
        return input
    if len(before) == 4 and after == (before[0], math.prod(before[1:])) and _is_float(input):
        return n.call_like(node, v.flatten, input)
    if len(before) == 2 and after == (*before, 1, 1) and _is_float(input):
        return n.call_like(node, v.image, input)
    # A value of a plan may lie in another order than the model's: then it is copied.
    return n.call_like(node, aten.reshape.default, input, list(after))


def slice_(n: Network, node: Node, input: Node, dim: int, start: Any, end: Any, step: int) -> Node | None:
    if _shape(node) == _shape(input) and step == 1:
        return input
    if not _is_image(input) or dim % 4 != 1 or step != 1 or not _is_float(input):
        return None
    start = 0 if start is None else min(max(start + (_shape(input)[1] if start < 0 else 0), 0), _shape(input)[1])
    return n.call_like(node, v.channels, input, start=start, stop=start + _shape(node)[1])


def _part(n: Network, node: Node) -> Node | None:
    """One of the tensors that an operator gives: of a split along the channels, a slice of them."""
    whole, index = node.args
    if not isinstance(whole, fx.Node) or _name(whole) not in ("split", "split_with_sizes"):
        return None
    arguments = _arguments(whole)
    input, dim = arguments["input"], arguments["dim"]
    if not _is_image(input) or dim % 4 != 1 or not _is_float(input):
        return None
    start = sum(part.shape[1] for part in value(whole)[:index])
    return n.call_like(node, v.channels, input, start=start, stop=start + _shape(node)[1])


def identity(n: Network, node: Node, input: Node, **_: Any) -> Node | None:
    return input if _same_form(input, node) else None


def to_copy(n: Network, node: Node, input: Node, **options: Any) -> Node | None:
    # From one device to another it is more than a copy; tensors without data do not know their device.
    moves = options.get("device") is not None
    return input if _same_form(input, node) and not moves else None


def dropout(n: Network, node: Node, input: Node, train: Any = True, **_: Any) -> Node | None:
    return input if train is False and isinstance(value(node), torch.Tensor) else None


def pad(n: Network, node: Node, input: Node, pad: Sequence[int], value: Any = 0) -> Node | None:
    return input if not any(pad) else None


def _lay_out(network: Network) -> None:
    """Operators that ask how their argument lies in memory, for their result or at all, get it as the model had it."""
    for node in list(network.graph.nodes):
        if _name(node) in LAID_OUT and not is_constant(node.args[0]):
            source = node.args[0]
            with network.graph.inserting_before(node):
                held = network.call_like(source, v.laid_out, source, list(value(source).stride()))
            node.replace_input_with(source, held)


LAID_OUT = frozenset(
    ["as_strided", "as_strided_scatter", "native_group_norm", "view_as_complex", "view_as_real"]
)  # fmt: skip


# ---- fastcnn's own operators ---------------------------------------------------------------------------------


def own_conv2d(n: Network, node: Node, input: Node, weight: Node, bias: Any, residual: Any, **params: Any) -> Node:
    return _conv2d(n, node, input, weight, bias, tuple(_plain(p) for p in params.values()), residual)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def own_linear(n: Network, node: Node, input: Node, weight: Node, bias: Any, activation: Any) -> Node | None:
    return n.call_like(node, v.linear, input, weight, bias, activation=activation) if value(input).dim() == 2 else None


def own_subsample2d(
    n: Network, node: Node, input: Node, coefficient: Node, bias: Node, kernel_size: int, activation: Any
) -> Node:
    return n.call_like(node, v.subsample2d, input, coefficient, bias, kernel_size=kernel_size, activation=activation)


def own_lrn(n: Network, node: Node, input: Node, size: int, alpha: float, beta: float, k: float) -> Node:
    return n.call_like(node, v.local_response_norm, input, size=size, alpha=alpha, beta=beta, k=k)


def own_rbf(n: Network, node: Node, input: Node, centers: Node) -> Node:
    return n.call_like(node, v.rbf, input, centers)


def own_add_relu(n: Network, node: Node, input: Node, other: Node) -> Node | None:
    return n.call_like(node, v.add, input, other, activation="relu")


def own_concat(n: Network, node: Node, tensors: Any) -> Node:
    return n.call_like(node, v.concat, list(tensors))


RULES: dict[str, Rule] = {
    "convolution": convolution,
    "addmm": addmm,
    "mm": mm,
    "native_batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "cudnn_batch_norm": lambda n, node, epsilon, **rest: batch_norm(n, node, eps=epsilon, **rest),
    "add": add,
    "sub": sub,
    "mul": mul,
    "div": div,
    "clamp": clamp,
    **dict.fromkeys({name for row in activations.TABLE.values() for name in row.aten}, activation),
    "max_pool2d_with_indices": max_pool2d,
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "_adaptive_avg_pool2d": adaptive_avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "mean": mean,
    "cat": concat,
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), reshape),
    **dict.fromkeys(("squeeze", "unsqueeze"), squeeze),
    "slice": slice_,
    **dict.fromkeys(("detach", "alias", "clone", "lift_fresh", "expand", "contiguous"), identity),
    "_to_copy": to_copy,
    "dropout": dropout,
    "constant_pad_nd": pad,
    "fastcnn::conv2d": own_conv2d,
    "fastcnn::linear": own_linear,
    "fastcnn::max_pool2d": max_pool2d,
    "fastcnn::avg_pool2d": avg_pool2d,
    "fastcnn::adaptive_avg_pool2d": adaptive_avg_pool2d,
    "fastcnn::local_response_norm": own_lrn,
    "fastcnn::subsample2d": own_subsample2d,
    "fastcnn::concat": own_concat,
    "fastcnn::add_relu": own_add_relu,
    "fastcnn::rbf": own_rbf,
}
