"""A network's layers as operators on bytes.

Convolutions and linear layers are quantised wherever their kind allows; what lies between follows where all that it
reads comes as bytes. Values that a concatenation, a max-pool or a slice only moves share one scale, so that nothing
is rescaled and concatenated values are written in place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.int8 import vocabulary as q
from fastcnn.optimize.int8.scale import Bounds, Scale, scale_between
from fastcnn.optimize.network import Network, Node, is_constant, value

LAYERS = (v.conv2d, v.linear)
MOVES = (v.max_pool2d, v.concat, v.channels, v.flatten, v.image)  # their results are some of their inputs' values
# Activations that clamp: their lower and upper bound. All others are tables of 256 bytes.
CLAMPS: dict[str | None, Bounds] = {
    None: (-float("inf"), float("inf")), "relu": (0.0, float("inf")), "relu6": (0.0, 6.0),
}  # fmt: skip
LARGEST_DEPTH = 60_000  # products in a sum of 32 bits, see csrc/ops/conv2d_int8


def is_identity(node: Node) -> bool:
    """Whether an adaptive pool has the size that it is to make."""
    return node.target is v.adaptive_avg_pool2d and value(node).shape == value(node.args[0]).shape


def _is_global(node: Node) -> bool:
    return node.target is v.image_mean or tuple(value(node).shape[2:]) == (1, 1)


def _is_plain(node: Any) -> bool:
    x = value(node)
    return isinstance(x, Tensor) and x.dtype is torch.float32 and x.dim() in (2, 4)


def is_layer(node: Node) -> bool:
    """Whether a node is a convolution or linear layer that the operators on bytes can compute."""
    if node.op != "call_function" or node.target not in LAYERS:
        return False
    x, weight, bias = node.args[:3]
    constant = is_constant(weight) and (bias is None or is_constant(bias))
    plain = _is_plain(x) and not is_constant(x)
    if node.target is v.linear and value(x).dim() != 2:
        return False
    return constant and plain and value(weight)[0].numel() <= LARGEST_DEPTH


def _follows(node: Node) -> bool:
    """Whether a node can compute on bytes if all that it reads comes as bytes."""
    if node.op != "call_function" or not isinstance(value(node), Tensor) or not _is_plain(node):
        return False
    if node.target is v.flatten:
        return value(node.args[0]).dim() == 4
    if node.target is v.adaptive_avg_pool2d:
        return is_identity(node) or _is_global(node)
    if node.target is v.add:
        return node.kwargs["activation"] in CLAMPS
    return node.target in MOVES or node.target in (v.avg_pool2d, v.image_mean, v.activate)


def quantised_nodes(network: Network, kept: Collection[Node]) -> set[Node]:
    """The nodes that become operators on bytes."""
    found: set[Node] = set()
    for node in network.graph.nodes:
        if is_constant(node) or node in kept:
            continue
        if is_layer(node) or (_follows(node) and all(read in found for read in node.all_input_nodes)):
            found.add(node)
    return found


class Scales:
    """The scale of every value, one for all values of a group."""

    def __init__(self, quantised: set[Node], bounds: Callable[[Node], Bounds]) -> None:
        self._parent: dict[Node, Node] = {}
        self._bounds = bounds
        for node in quantised:
            if node.target in MOVES or is_identity(node):
                for read in node.all_input_nodes:
                    self._parent[self._root(read)] = self._root(node)
        self._members: dict[Node, list[Node]] = {}
        for node in self._parent:
            self._members.setdefault(self._root(node), []).append(node)
        self._known: dict[Node, Scale] = {}

    def _root(self, node: Node) -> Node:
        while self._parent.setdefault(node, node) is not node:
            node = self._parent[node]
        return node

    def __call__(self, node: Node) -> Scale:
        root = self._root(node)
        if root not in self._known:
            bounds = [self._bounds(member) for member in self._members.get(root, [node])]
            self._known[root] = scale_between(min(b[0] for b in bounds), max(b[1] for b in bounds))
        return self._known[root]


class Rewrite:
    """Rewrites one network."""

    def __init__(
        self,
        network: Network,
        quantised: set[Node],
        scale_of: Callable[[Node], Scale],
        scale_before: Callable[[Node], Scale],
    ) -> None:
        self._network, self._quantised = network, quantised
        self._scale_of, self._scale_before = scale_of, scale_before  # the latter: of a layer before its activation
        self._bytes: dict[Node, Node] = {}  # a value as bytes, rows as images of one pixel
        self._floats: dict[Node, Node] = {}  # a quantised node's value in float32

    def run(self) -> None:
        network = self._network
        for node in list(network.graph.nodes):
            if is_constant(node) or node.op == "placeholder":
                continue
            with network.graph.inserting_before(node):
                if node in self._quantised:
                    self._emit(node)
                else:
                    node.args = _map(node.args, self._as_floats)
        network.drop_unused()

    def _call(self, like: Node, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        made = self._network.call(target, *args, **kwargs)
        self._network.fused[made] = list(self._network.labels(like))
        return made

    def _as_floats(self, node: Node) -> Node:
        if node not in self._quantised:
            return node
        if node not in self._floats:
            x, (scale, zero) = self._bytes[node], self._scale_of(node)
            y = self._network.call(q.dequantize, x, scale, zero)
            self._floats[node] = self._network.call(v.flatten, y) if value(node).dim() == 2 else y
        return self._floats[node]

    def _as_bytes(self, node: Node) -> Node:
        if node not in self._bytes:
            scale, zero = self._scale_of(node)
            x = self._network.call(v.image, node) if value(node).dim() == 2 else node
            self._bytes[node] = self._network.call(q.quantize, x, 1 / scale, zero)
        return self._bytes[node]

    def _emit(self, node: Node) -> None:
        if node.target in LAYERS:
            return self._emit_layer(node)
        x = self._as_bytes(node.args[0]) if isinstance(node.args[0], type(node)) else None
        if node.target in (v.flatten, v.image) or is_identity(node):
            self._bytes[node] = x
        elif node.target is v.concat:
            self._bytes[node] = self._call(node, v.concat, [self._as_bytes(part) for part in node.args[0]])
        elif node.target is v.channels:
            self._bytes[node] = self._call(node, v.channels, x, **node.kwargs)
        elif node.target is v.max_pool2d:
            self._bytes[node] = self._call(node, q.max_pool2d, x, **_window(node))
        elif node.target is v.add:
            self._emit_add(node)
        elif node.target is v.activate:
            self._emit_table(node)
        else:
            self._emit_average(node)

    def _emit_layer(self, node: Node) -> None:
        """A convolution, or a linear layer as one over the whole image."""
        network, (x_scale, x_zero) = self._network, self._scale_of(node.args[0])
        x, weight, bias = self._as_bytes(node.args[0]), node.args[1], node.args[2]
        residual = node.args[3] if node.target is v.conv2d and len(node.args) > 3 else None
        if node.target is v.linear:
            weight = network.call(q.as_filter, weight, image=tuple(value(x).shape[1:]))
            options: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
        else:
            options = {name: node.kwargs[name] for name in ("stride", "padding", "dilation", "groups")}
        activation = node.kwargs["activation"]
        clamps = activation in CLAMPS
        to_floats = residual is None and not any(user in self._quantised for user in node.users)
        y_scale, y_zero = self._scale_of(node) if clamps else self._scale_before(node)
        if to_floats:
            options.update(float_output=True, relu=activation == "relu")
        else:
            options.update(y_zero=y_zero, **_clamp(activation if clamps else None, Scale(y_scale, y_zero)))
        others = []
        if residual is not None:
            scale, zero = self._scale_of(residual)
            others.append(self._as_bytes(residual))
            options.update(residual_zero=zero, residual_scale=scale / y_scale)
        filter = network.call(
            q.filter_of, weight, bias, x_scale=x_scale, x_zero=x_zero, y_scale=1.0 if to_floats else y_scale
        )
        y = self._call(node, q.conv2d, x, filter, *others, x_zero=x_zero, **options)
        if not to_floats:
            self._bytes[node] = y if clamps else self._table(node, y, Scale(y_scale, y_zero), activation)
            return
        y = network.call(v.flatten, y) if node.target is v.linear else y
        self._floats[node] = y if activation in (None, "relu") else network.call(v.activate, y, activation=activation)

    def _emit_add(self, node: Node) -> None:
        (a, a_zero), (b, b_zero), y = map(self._scale_of, (*node.args, node))
        self._bytes[node] = self._call(
            node, q.add, *map(self._as_bytes, node.args), a_scale=a / y.scale, a_zero=a_zero, b_scale=b / y.scale,
            b_zero=b_zero, y_zero=y.zero, **_clamp(node.kwargs["activation"], y),
        )  # fmt: skip

    def _emit_table(self, node: Node) -> None:
        x = node.args[0]
        self._bytes[node] = self._table(node, self._as_bytes(x), self._scale_of(x), node.kwargs["activation"])

    def _table(self, node: Node, x: Node, scale: Scale, activation: str) -> Node:
        """act(x) for each of the 256 values that a byte stands for."""
        to = self._scale_of(node)
        inputs = q.dequantize(torch.arange(256, dtype=torch.uint8), *scale)
        outputs = q.quantize(v.activate(inputs, activation=activation), 1 / to.scale, to.zero)
        return self._call(node, q.table, x, self._network.constant("table", outputs))

    def _emit_average(self, node: Node) -> None:
        x = self._as_bytes(node.args[0])
        (x_scale, x_zero), (y_scale, y_zero) = map(self._scale_of, (node.args[0], node))
        if node.target is v.avg_pool2d:
            names = ("count_include_pad", "divisor_override")
            options = _window(node) | {name: node.kwargs[name] for name in names}
            options.pop("dilation", None)
        else:
            size = tuple(value(x).shape[2:])
            options = {"kernel_size": size, "stride": size, "padding": (0, 0), "ceil_mode": False}
            options |= {"count_include_pad": True, "divisor_override": None}
        y = self._call(node, q.avg_pool2d, x, **options, scale=x_scale / y_scale, x_zero=x_zero, y_zero=y_zero)
        self._bytes[node] = y


def _clamp(activation: str | None, scale: Scale) -> dict[str, int]:
    """The least and the largest byte of an activation that clamps."""
    low, high = (max(-1e9, min(1e9, bound / scale.scale)) for bound in CLAMPS[activation])
    return {"low": max(0, round(low) + scale.zero), "high": min(255, round(high) + scale.zero)}


def _window(node: Node) -> dict[str, Any]:
    options = {name: node.kwargs[name] for name in ("kernel_size", "stride", "padding", "ceil_mode")}
    if options["stride"] is None:
        options["stride"] = options["kernel_size"]
    if "dilation" in node.kwargs:
        options["dilation"] = node.kwargs["dilation"]
    return {name: _pair(option) if name != "ceil_mode" else option for name, option in options.items()}


def _pair(option: Any) -> tuple[int, int]:
    return (option, option) if isinstance(option, int) else tuple(option)


def _map(args: Any, function: Callable[[Node], Node]) -> Any:
    return torch.fx.map_arg(args, function)
