"""In-place operators become out-of-place ones, so that every value of the graph is written once."""

from __future__ import annotations

import inspect
import operator
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from fastcnn.optimize.network import Network, Node

_OPERATORS: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_VIEWS = frozenset(
    {"getitem", "chunk", "split", "view", "view_as", "reshape", "flatten", "transpose", "permute", "unsqueeze"}
    | {"squeeze", "expand", "expand_as", "narrow", "select", "unbind", "t", "contiguous", "detach", "to", "type"}
    | {"float", "half", "movedim", "swapaxes", "unflatten", "dropout"}
)


class Aliased(Exception):
    """An in-place operator writes to memory that another value of the graph shows."""


def functionalise(network: Network) -> None:
    """Raises Aliased where the meaning would change."""
    order = {node: i for i, node in enumerate(network.graph.nodes)}
    base: dict[Node, Node] = {}
    for node in network.graph.nodes:
        if _name(node) in _VIEWS and node.args and isinstance(node.args[0], fx.Node):
            base[node] = base.get(node.args[0], node.args[0])
    for node in network.graph.nodes:
        if not _make_out_of_place(node, network):
            continue
        written = node.args[0]
        if not isinstance(written, fx.Node):
            continue
        root = base.get(written, written)
        aliases = [n for n in order if base.get(n, n) is root and n is not written]
        for alias in aliases:
            if any(order[user] > order[node] for user in alias.users):
                raise Aliased(f"{node.name} writes in place to {written.name}, which shares memory with {alias.name}")
        written.replace_all_uses_with(node, delete_user_cb=partial(_later, order, node))


def _later(order: dict[Node, int], node: Node, user: Node) -> bool:
    return order[user] > order[node]


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _make_out_of_place(node: Node, network: Network) -> bool:
    """Rewrites an in-place node; whether it was one."""
    if node.op == "call_function" and node.target in _OPERATORS:
        node.target = _OPERATORS[node.target]
        return True
    name = _name(node)
    if node.op == "call_function" and name.endswith("_") and not name.endswith("__") and hasattr(torch, name[:-1]):
        node.target = getattr(torch, name[:-1])
        return True
    if node.op == "call_method" and name.endswith("_") and not name.endswith("__") and hasattr(Tensor, name[:-1]):
        node.target = name[:-1]
        return True
    if node.op == "call_function" and getattr(node.target, "__module__", "") == "torch.nn.functional":
        parameters = list(inspect.signature(node.target).parameters)
        if "inplace" in parameters:
            arguments = dict(zip(parameters, node.args, strict=False)) | node.kwargs
            inplace = arguments.pop("inplace", False)
            node.args, node.kwargs = (arguments.pop(parameters[0]),), {**arguments, "inplace": False}
            return bool(inplace)
    # eval_copy made the layer out of place; later readers of its input see its result all the same.
    return node.op == "call_module" and getattr(network.layer(node), "was_inplace", False)
