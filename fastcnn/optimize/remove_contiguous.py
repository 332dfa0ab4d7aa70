"""contiguous() goes where every reader takes any layout: between our operators images are channels last."""

from __future__ import annotations

from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, Node


def remove_contiguous(network: Network) -> None:
    for node in list(network.graph.nodes):
        plain = node.op == "call_method" and node.target == "contiguous" and len(node.args) == 1 and not node.kwargs
        if plain and all(_takes_any_layout(user) for user in node.users):
            network.remove(node, node.args[0])


def _takes_any_layout(user: Node) -> bool:
    if user.op == "call_method":
        return user.target == "reshape"
    return user.op == "call_function" and vars(v).get(getattr(user.target, "__name__", "")) is user.target
