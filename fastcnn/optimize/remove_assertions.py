"""Assertions on a tensor's number of dimensions go: operators check it, and a second reader keeps layers apart."""

from __future__ import annotations

import operator

import torch

from fastcnn.optimize.network import Network, is_call


def remove_assertions(network: Network) -> None:
    for node in network.nodes(torch._assert):
        condition = node.args[0]
        if not is_call(condition, operator.eq):
            continue
        ndim = condition.args[0]
        is_ndim = is_call(ndim, getattr) and ndim.args[1] == "ndim"
        if is_ndim or (getattr(ndim, "op", "") == "call_method" and ndim.target == "dim"):
            network.graph.erase_node(node)
    network.drop_unused()
