"""float32 networks computed in bfloat16: weights and values between operators are rounded, sums stay float32.

What the kernels know computes in bfloat16; everything else, and what the network gives, in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from fastcnn.core import native
from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, Node, is_constant, value

# Operators whose kernels take bfloat16. Their sums, normalisations and activations are computed in float32.
OPERATORS = (
    v.conv2d, v.linear, v.affine, v.activate, v.add, v.multiply, v.max_pool2d, v.avg_pool2d, v.adaptive_avg_pool2d,
    v.image_mean, v.local_response_norm, v.lrn_max_pool2d, v.concat, v.channels, v.flatten, v.image,
)  # fmt: skip


def unavailable() -> str:
    """Why bfloat16 is no faster than float32 here; empty if it is."""
    if native.unavailable is not None:
        return str(native.unavailable)
    sizes = dict.fromkeys(("N", "H", "W", "R", "S", "P", "Q", "stride_h", "stride_w", "dilation_h", "dilation_w"), 1)
    problem = native.struct(
        native.extension.Conv2dProblem, dtype=torch.bfloat16, **sizes, C=64, K=64, groups=1, x_stride=64, y_stride=64
    )
    return str(native.extension.cpu.conv2d_reason("direct_bf16", problem, 1))


def to_bfloat16(network: Network) -> None:
    rounded: dict[Node, Node] = {}  # float32 nodes' values in bfloat16
    widened: dict[Node, Node] = {}  # nodes that now compute in bfloat16, and their values in float32

    def in_bfloat16(node: Node) -> Node:
        if not isinstance(value(node), Tensor) or value(node).dtype is not torch.float32:
            return node
        if node not in rounded:
            rounded[node] = network.call(torch.Tensor.to, node, torch.bfloat16)
        return rounded[node]

    def in_float32(node: Node) -> Node:
        if node not in rounded or node not in replaced:
            return node
        if node not in widened:
            widened[node] = network.call(torch.Tensor.to, rounded[node], torch.float32)
        return widened[node]

    replaced: set[Node] = set()
    for node in list(network.graph.nodes):
        if is_constant(node) or node.op == "placeholder":
            continue
        with network.graph.inserting_before(node):
            y = value(node) if node.op == "call_function" else None
            if node.target in OPERATORS and isinstance(y, Tensor) and y.dtype is torch.float32:
                made = network.call(node.target, *fx.map_arg(node.args, in_bfloat16), **node.kwargs)
                network.fused[made] = list(network.labels(node))
                rounded[node] = made
                replaced.add(node)
            else:
                node.args = fx.map_arg(node.args, in_float32)
    network.drop_unused()
