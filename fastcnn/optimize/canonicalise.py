"""PyTorch's layers, functions and methods become calls of the vocabulary; what has no counterpart stays.

Each rule below has the signature of the PyTorch function that it stands for, after the network, and returns the
node that takes its place, or None where the arguments rule a counterpart out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fastcnn import functional
from fastcnn.ops.conv2d import contract as conv2d_contract
from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, Node, is_call


def canonicalise(network: Network) -> None:
    for node in list(network.graph.nodes):
        with network.graph.inserting_before(node):
            try:
                new = _counterpart(network, node)
            except (TypeError, ValueError):
                new = None  # arguments that the rule does not know: PyTorch runs the node, and judges them
        if new is None:
            continue
        if new in node.all_input_nodes:  # an identity
            network.remove(node, new)
        else:
            network.fused[node] = [str(node.target) if node.op == "call_module" else node.name]
            network.replace(node, new)


def _counterpart(network: Network, node: Node) -> Node | None:
    if node.op == "call_module":
        layer = network.layer(node)
        rule = LAYERS.get(type(layer))
        if rule is None or layer.training or len(node.args) != 1 or node.kwargs:
            return None
        return rule(network, layer, str(node.target), node.args[0])
    if node.op == "call_function":
        rule = FUNCTIONS.get(node.target) or FUNCTIONS_BY_NAME.get(getattr(node.target, "__name__", ""))
    else:
        rule = METHODS.get(str(node.target)) if node.op == "call_method" else None
    return None if rule is None else rule(network, *node.args, **node.kwargs)


def _call(network: Network, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
    return network.graph.call_function(target, args, kwargs)


def _computed(value: Any) -> bool:
    """Whether an argument depends on a node: it is not known before the network runs."""
    found: list[Node] = []
    fx.map_arg(value, found.append)
    return bool(found)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    return values if len(values) == 2 else (values[0], values[0])


# ---- rules ------------------------------------------------------------------------------------------------


def conv2d(
    n: Network, input: Node, weight: Node, bias: Node | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, activation: str | None = None, residual: Any = None, out: Any = None,
) -> Node | None:  # fmt: skip
    w = n.tensor(weight)
    if w is None or w.dim() != 4 or out is not None or _computed((stride, padding, dilation, groups)):
        return None
    params = (stride, padding, dilation, groups, activation)
    stride, padding, dilation, groups, activation = conv2d_contract.normalise((None, w), params)
    return _call(
        n, v.conv2d, input, weight, bias, residual,
        stride=stride, padding=padding, dilation=dilation, groups=groups, activation=activation,
    )  # fmt: skip


def linear(
    n: Network, input: Node, weight: Node, bias: Node | None = None, activation: str | None = None
) -> Node | None:
    if n.tensor(weight) is None:
        return None
    return _call(n, v.linear, input, weight, bias, activation=activation)


def batch_norm(
    n: Network, input: Node, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: Any = False, momentum: Any = 0.1, eps: float = 1e-5,
) -> Node | None:  # fmt: skip
    mean, var = n.tensor(running_mean), n.tensor(running_var)
    if training is not False or mean is None or var is None:
        return None
    gamma, beta = n.tensor(weight), n.tensor(bias)
    if (gamma is None) != (weight is None) or (beta is None) != (bias is None):
        return None
    scale = (var.double() + eps).rsqrt()
    scale = scale if gamma is None else scale * gamma.double()
    shift = -mean.double() * scale
    shift = shift if beta is None else shift + beta.double()
    path = str(running_mean.target).rpartition(".")[0]
    constants = (n.constant(f"{path}.{k}", t.to(mean.dtype)) for k, t in (("scale", scale), ("shift", shift)))
    return _call(n, v.affine, input, *constants, activation=None)


def activation(kind: str) -> Callable[..., Node | None]:
    def rule(n: Network, input: Node, inplace: Any = False) -> Node | None:
        return _call(n, v.activate, input, activation=kind)

    return rule


def gelu(n: Network, input: Node, approximate: str = "none") -> Node | None:
    return _call(n, v.activate, input, activation="gelu") if approximate == "none" else None


def hardtanh(n: Network, input: Node, min_val: float = -1.0, max_val: float = 1.0, inplace: Any = False) -> Node | None:
    return _call(n, v.activate, input, activation="relu6") if (min_val, max_val) == (0, 6) else None


def max_pool2d(
    n: Network, input: Node, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Node | None:  # fmt: skip
    if return_indices or _computed((kernel_size, stride, padding, dilation)):
        return None
    stride = kernel_size if stride in (None, [], ()) else stride
    return _call(
        n, v.max_pool2d, input, kernel_size=_pair(kernel_size), stride=_pair(stride), padding=_pair(padding),
        dilation=_pair(dilation), ceil_mode=ceil_mode,
    )  # fmt: skip


def avg_pool2d(
    n: Network, input: Node, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Node | None:  # fmt: skip
    if _computed((kernel_size, stride, padding)):
        return None
    stride = kernel_size if stride in (None, [], ()) else stride
    return _call(
        n, v.avg_pool2d, input, kernel_size=_pair(kernel_size), stride=_pair(stride), padding=_pair(padding),
        ceil_mode=ceil_mode, count_include_pad=count_include_pad, divisor_override=divisor_override,
    )  # fmt: skip


def adaptive_avg_pool2d(n: Network, input: Node, output_size: Any) -> Node | None:
    if _computed(output_size):
        return None
    size = output_size if isinstance(output_size, int) else tuple(output_size)
    return _call(n, v.adaptive_avg_pool2d, input, output_size=size)


def mean(n: Network, input: Node, dim: Any = None, keepdim: bool = False, **other: Any) -> Node | None:
    if other or isinstance(dim, int | None) or set(dim) not in ({2, 3}, {-1, -2}):
        return None
    return _call(n, v.image_mean, input, dim=tuple(dim), keepdim=keepdim)


def local_response_norm(
    n: Network, input: Node, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Node | None:
    return _call(n, v.local_response_norm, input, size=size, alpha=alpha, beta=beta, k=k)


def concat(n: Network, tensors: Any, dim: Any = 0, axis: Any = None) -> Node | None:
    dim = dim if axis is None else axis
    if dim != 1 or not isinstance(tensors, list | tuple) or not all(isinstance(t, fx.Node) for t in tensors):
        return None
    return tensors[0] if len(tensors) == 1 else _call(n, v.concat, list(tensors))


def part(n: Network, tensors: Any, index: Any) -> Node | None:
    """tensors[index], where tensors are an image's channels chunked or split."""
    if not isinstance(tensors, fx.Node) or not isinstance(index, int) or not set(tensors.kwargs) <= {"dim"}:
        return None
    functions: dict[Any, str] = {torch.chunk: "chunk", torch.split: "split"}
    method = tensors.target if tensors.op == "call_method" else functions.get(tensors.target)
    if method not in ("chunk", "split") or len(tensors.args) < 2:
        return None
    input, size, *dim = tensors.args
    if _computed(size) or (dim or [tensors.kwargs.get("dim", 0)]) != [1]:
        return None
    return _call(n, v.part, input, method=method, size=size, index=index)


def add(n: Network, input: Any, other: Any, alpha: Any = 1) -> Node | None:
    for number, node in ((input, other), (other, input)):
        if isinstance(number, int) and number == 0 and isinstance(node, fx.Node):
            return node  # as sum() begins
    if alpha != 1 or not (isinstance(input, fx.Node) and isinstance(other, fx.Node)):
        return None
    return _call(n, v.add, input, other, activation=None)


def mul(n: Network, input: Any, other: Any) -> Node | None:
    if not (isinstance(input, fx.Node) and isinstance(other, fx.Node)):
        return None
    return _call(n, v.multiply, input, other)


def flatten(n: Network, input: Node, start_dim: int = 0, end_dim: int = -1) -> Node | None:
    return _call(n, v.flatten, input) if (start_dim, end_dim) == (1, -1) else None


def view(n: Network, input: Node, *shape: Any) -> Node | None:
    if len(shape) == 1 and isinstance(shape[0], list | tuple):
        shape = tuple(shape[0])
    if len(shape) == 2 and shape[1] == -1 and _is_batch_size(shape[0], input):
        return _call(n, v.flatten, input)
    if len(shape) == 1 and isinstance(shape[0], torch.dtype):
        return None
    # A channels_last tensor has no such view; reshape copies where it must.
    return n.graph.call_method("reshape", (input, *shape))


def _is_batch_size(value: Node, tensor: Node) -> bool:
    """Whether a node is tensor.size(0) or tensor.shape[0]."""
    if _is_method(value, "size"):
        return value.args == (tensor, 0)
    if not is_call(value, operator.getitem) or value.args[1] != 0:
        return False
    shape = value.args[0]
    return (is_call(shape, getattr) and shape.args == (tensor, "shape")) or (
        _is_method(shape, "size") and shape.args == (tensor,)
    )


def _is_method(value: Node, name: str) -> bool:
    return isinstance(value, fx.Node) and value.op == "call_method" and value.target == name


def identity(n: Network, input: Node, *args: Any, **kwargs: Any) -> Node:
    return input


def dropout(n: Network, input: Node, p: Any = 0.5, training: Any = True, inplace: Any = False) -> Node | None:
    return input if training is False else None


def stochastic_depth(n: Network, input: Node, p: Any, mode: Any, training: Any = True) -> Node | None:
    return input if training is False else None


def subsample2d(
    n: Network, input: Node, coefficient: Node, bias: Node, kernel_size: int = 2, *, activation: str | None = "tanh"
) -> Node:
    return _call(n, v.subsample2d, input, coefficient, bias, kernel_size=kernel_size, activation=activation)


def rbf(n: Network, input: Node, centers: Node) -> Node:
    return _call(n, v.rbf, input, centers)


def add_relu(n: Network, input: Node, other: Node) -> Node:
    return _call(n, v.add, input, other, activation="relu")


def fastcnn_concat(n: Network, tensors: Any) -> Node | None:
    return concat(n, tensors, 1)


# ---- which PyTorch names they stand for ----------------------------------------------------------------------


def _conv_layer(n: Network, layer: Any, path: str, input: Node) -> Node | None:
    if layer.padding_mode != "zeros":
        return None
    weight, bias = _parameters(n, layer, path)
    return conv2d(n, input, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _linear_layer(n: Network, layer: Any, path: str, input: Node) -> Node | None:
    return linear(n, input, *_parameters(n, layer, path))


def _batch_norm_layer(n: Network, layer: Any, path: str, input: Node) -> Node | None:
    names = ("running_mean", "running_var", "weight", "bias")
    nodes = {k: _existing(n, f"{path}.{k}", getattr(layer, k)) for k in names if getattr(layer, k) is not None}
    return batch_norm(n, input, **{"running_mean": None, "running_var": None, **nodes}, eps=layer.eps)


def _parameters(n: Network, layer: Any, path: str) -> tuple[Node, Node | None]:
    bias = None if layer.bias is None else _existing(n, f"{path}.bias", layer.bias)
    return _existing(n, f"{path}.weight", layer.weight), bias


def _existing(n: Network, path: str, tensor: Any) -> Node:
    n.attributes[path] = tensor.detach()
    return n.graph.create_node("get_attr", path)


def _scalars(rule: Callable[..., Node | None], *names: str) -> Callable[..., Node | None]:
    """The rule of a layer whose attributes are the function's arguments."""
    return lambda n, layer, path, input: rule(n, input, **{name: getattr(layer, name) for name in names})


LAYERS: dict[type[nn.Module], Callable[..., Node | None]] = {
    nn.Conv2d: _conv_layer,
    nn.Linear: _linear_layer,
    nn.BatchNorm1d: _batch_norm_layer,
    nn.BatchNorm2d: _batch_norm_layer,
    nn.MaxPool2d: _scalars(max_pool2d, "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: _scalars(
        avg_pool2d, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"
    ),
    nn.AdaptiveAvgPool2d: _scalars(adaptive_avg_pool2d, "output_size"),
    nn.LocalResponseNorm: _scalars(local_response_norm, "size", "alpha", "beta", "k"),
    nn.Flatten: _scalars(flatten, "start_dim", "end_dim"),
    nn.GELU: _scalars(gelu, "approximate"),
    nn.Hardtanh: _scalars(hardtanh, "min_val", "max_val"),
}
for _layer in (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout):
    LAYERS[_layer] = _scalars(identity)

FUNCTIONS: dict[Any, Callable[..., Node | None]] = {}
for _rule, _functions in (
    (conv2d, (torch.conv2d, F.conv2d, functional.conv2d)),
    (linear, (F.linear, functional.linear)),
    (batch_norm, (F.batch_norm,)),
    (gelu, (F.gelu,)),
    (hardtanh, (F.hardtanh,)),
    (max_pool2d, (F.max_pool2d, torch.max_pool2d, functional.max_pool2d)),
    (avg_pool2d, (F.avg_pool2d, functional.avg_pool2d)),
    (adaptive_avg_pool2d, (F.adaptive_avg_pool2d, functional.adaptive_avg_pool2d)),
    (local_response_norm, (F.local_response_norm, functional.local_response_norm)),
    (mean, (torch.mean,)),
    (concat, (torch.cat, torch.concat, torch.concatenate)),
    (fastcnn_concat, (functional.concat,)),
    (add, (operator.add, torch.add)),
    (add_relu, (functional.add_relu,)),
    (part, (operator.getitem,)),
    (mul, (operator.mul, torch.mul, torch.multiply)),
    (flatten, (torch.flatten,)),
    (view, (torch.reshape,)),
    (dropout, (F.dropout, F.dropout2d, F.alpha_dropout)),
    (subsample2d, (functional.subsample2d,)),
    (rbf, (functional.rbf,)),
):
    FUNCTIONS.update(dict.fromkeys(_functions, _rule))
# torchvision is not imported for the one function of its own that traces as a call.
FUNCTIONS_BY_NAME = {"stochastic_depth": stochastic_depth}

METHODS: dict[str, Callable[..., Node | None]] = {
    "add": add,
    "mul": mul,
    "multiply": mul,
    "flatten": flatten,
    "mean": mean,
    "view": view,
    "reshape": view,
}

for _kind, _type, _names in (
    ("relu", nn.ReLU, (torch.relu, F.relu)),
    ("relu6", nn.ReLU6, (F.relu6,)),
    ("sigmoid", nn.Sigmoid, (torch.sigmoid, F.sigmoid)),
    ("tanh", nn.Tanh, (torch.tanh, F.tanh)),
    ("silu", nn.SiLU, (F.silu,)),
    ("hardswish", nn.Hardswish, (F.hardswish,)),
    ("hardsigmoid", nn.Hardsigmoid, (F.hardsigmoid,)),
):
    LAYERS[_type] = _scalars(activation(_kind))
    FUNCTIONS.update(dict.fromkeys(_names, activation(_kind)))
    if _kind in ("relu", "sigmoid", "tanh"):
        METHODS[_kind] = activation(_kind)
