"""The residual addition goes into the epilogue of the convolution that computes one of its terms."""

from __future__ import annotations

from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, Node, is_call, only_user, value


def fuse_residual(network: Network) -> None:
    order = {node: i for i, node in enumerate(network.graph.nodes)}
    for add in network.nodes(v.add):
        terms = add.args
        takers = [t for t in terms if _can_take(t)]
        if not takers or terms[0] is terms[1] or value(add).dim() != 4:
            continue
        # Of two convolutions the later takes the sum: the other's result is there by then.
        conv = max(takers, key=lambda node: order.get(node, 0))
        residual = terms[1] if conv is terms[0] else terms[0]
        with network.graph.inserting_before(add):
            options = {**conv.kwargs, "activation": add.kwargs["activation"]}
            new = network.call_like(add, v.conv2d, *conv.args[:3], residual, **options)
        order[new] = order[add]
        network.replace(add, new, conv)


def _can_take(node: Node) -> bool:
    return is_call(node, v.conv2d) and only_user(node) and node.args[3] is None and node.kwargs["activation"] is None
