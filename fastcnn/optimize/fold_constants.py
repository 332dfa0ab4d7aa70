"""What is computed from weights alone is computed once: masked, standardised or reparametrised weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fastcnn.optimize.network import Network, Node


def fold_constants(network: Network) -> None:
    for node in list(network.graph.nodes):
        sources = node.all_input_nodes
        if node.op not in ("call_function", "call_method") or not sources:
            continue
        if any(network.tensor(source) is None for source in sources):
            continue
        value = _value(network, node)
        if isinstance(value, Tensor):
            with network.graph.inserting_before(node):
                network.remove(node, network.constant(f"{sources[0].target}_{node.name}", value))


def _value(network: Network, node: Node) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), network.tensor)
    state = torch.get_rng_state()
    with torch.no_grad():
        if node.op == "call_method":
            value = getattr(args[0], node.target)(*args[1:], **kwargs)
        else:
            value = node.target(*args, **kwargs)
    if not torch.equal(state, torch.get_rng_state()):
        torch.set_rng_state(state)
        return None  # drawn anew on each call
    return value
