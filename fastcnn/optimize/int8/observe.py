"""What calibration learns of a network's values: their ranges, and what each layer loses when it alone is quantised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.constants import Constants
from fastcnn.optimize.int8 import vocabulary as q
from fastcnn.optimize.int8.scale import Scale, Seen, fake
from fastcnn.optimize.network import Network, Node, is_constant

Visit = Callable[[Node, tuple[Any, ...], Any], None]


def interpret(network: Network, constants: Constants, tensors: Sequence[Tensor], visit: Visit) -> None:
    """Runs the network node by node; visit(node, arguments, value) is called after each."""
    last: dict[Node, Node] = {}
    for node in network.graph.nodes:
        last.update(dict.fromkeys(node.all_input_nodes, node))
    values: dict[Node, Any] = {}
    given = iter(tensors)

    def look_up(node: Node) -> Any:
        if is_constant(node):
            return constants.value(constants.entry(network, node))
        return values[node]

    with torch.no_grad():
        for node in network.graph.nodes:
            if is_constant(node) or node.op == "output":
                continue
            if node.op == "placeholder":
                args, y = (), next(given)
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), look_up)
                y = node.target(*args, **kwargs)
            values[node] = y
            visit(node, args, y)
            for read in node.all_input_nodes:
                if last[read] is node:
                    values.pop(read, None)


def ranges(
    network: Network, constants: Constants, batches: Sequence[Sequence[Tensor]], inner: set[Node]
) -> tuple[dict[Node, Seen], dict[Node, Seen]]:
    """The float32 values of every node over the batches, and those of `inner` before their activation.

    Raises ValueError where one is NaN or infinite.
    """
    found: dict[Node, Seen] = {}
    before: dict[Node, Seen] = {}

    def visit(node: Node, args: Any, y: Any) -> None:
        if not isinstance(y, Tensor) or y.dtype is not torch.float32 or y.numel() == 0:
            return
        if node in inner:
            sums = node.target(*args, **{**node.kwargs, "activation": None})
            before.setdefault(node, Seen()).add(sums)
        seen = found.setdefault(node, Seen())
        seen.add(y)
        if not seen.finite:
            name = " + ".join(network.labels(node)) or node.name
            raise ValueError(f"quantize: a batch gives NaN or infinity in {name}")

    for tensors in batches:
        interpret(network, constants, tensors, visit)
    return found, before


def layer_errors(
    network: Network,
    constants: Constants,
    batches: Sequence[Sequence[Tensor]],
    layers: set[Node],
    scale_of: Callable[[Node], Scale],
) -> dict[Node, float]:
    """What each convolution or linear layer loses with float32 inputs and the others as they are.

    error = |q(f(q(x), q(weight))) - f(x, weight)| / |f(x, weight)|, root mean squares over the batches
    """
    lost: dict[Node, float] = {}
    size: dict[Node, float] = {}

    def visit(node: Node, args: Any, y: Any) -> None:
        if node not in layers:
            return
        x, weight, bias, *residual = args
        residual = [None if r is None else fake(r, scale_of(n)) for r, n in zip(residual, node.args[3:], strict=True)]
        if node.target is v.affine:
            again = v.affine(fake(x, scale_of(node.args[0])), weight, bias, **node.kwargs)
        else:
            given = fake(x, scale_of(node.args[0])), q.fake_weight(weight), bias, *residual
            again = node.target(*given, **node.kwargs)
        difference = fake(again, scale_of(node)) - y
        lost[node] = lost.get(node, 0.0) + float(difference.square().sum(dtype=torch.float64))
        size[node] = size.get(node, 0.0) + float(y.square().sum(dtype=torch.float64))

    for tensors in batches:
        interpret(network, constants, tensors, visit)
    return {node: (lost[node] / size[node]) ** 0.5 if size[node] else 0.0 for node in lost}
