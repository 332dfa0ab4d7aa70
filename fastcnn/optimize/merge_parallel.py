"""The sum of convolutions and normalisations of one input becomes one convolution, as in RepVGG and MobileOne.

A smaller kernel is a larger one with zeros around it; a normalisation is a 1x1 kernel on the diagonal.

Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, Node, is_call, only_user


def merge_parallel(network: Network) -> None:
    for add in network.nodes(v.add):
        terms = sorted(add.args, key=lambda node: -_kernel_size(network, node))
        if any(not _is_linear(network, node) for node in terms) or terms[0].args[0] is not terms[1].args[0]:
            continue
        large, small = terms
        if not is_call(large, v.conv2d):
            continue
        merged = _embed(network, large, small)
        if merged is None:
            continue
        input, weight = large.args[:2]
        dtype, path = network.attributes[str(weight.target)].dtype, str(weight.target).rpartition(".")[0]
        with network.graph.inserting_before(add):
            w, b = (
                network.constant(f"{path}.merged_{name}", tensor.to(dtype).contiguous())
                for name, tensor in zip(("weight", "bias"), merged, strict=True)
            )
            new = network.graph.call_function(v.conv2d, (input, w, b, None), dict(large.kwargs))
        network.replace(add, new, large, small)


def _kernel_size(network: Network, node: Node) -> int:
    weight = network.tensor(node.args[1]) if is_call(node, v.conv2d) else None
    return 0 if weight is None else weight[0, 0].numel()


def _is_linear(network: Network, node: Node) -> bool:
    """Whether a node is a convolution, or a normalisation, with known weights, that only the sum reads."""
    if not is_call(node, v.conv2d, v.affine) or not only_user(node) or node.kwargs["activation"] is not None:
        return False
    constants, residual = node.args[1:3], node.args[3:]
    return residual in ((), (None,)) and all(c is None or network.tensor(c) is not None for c in constants)


def _embed(network: Network, large: Node, small: Node) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of the sum, in float64; None where the one kernel does not fit into the other."""
    weight, k = _double(network, large.args[1]).clone(), large.kwargs
    bias = torch.zeros(weight.shape[0], dtype=torch.float64, device=weight.device)
    for node in (large, small):
        if node.args[2] is not None:
            bias += _double(network, node.args[2])
    K, C, R, S = weight.shape
    added, padding = _double(network, small.args[1]), (0, 0, 0, 0)
    if is_call(small, v.affine):
        if k["stride"] != (1, 1) or added.shape[0] != K or C * k["groups"] != K:
            return None
        rows = torch.arange(K, device=weight.device)
        diagonal = torch.zeros(K, C, 1, 1, dtype=torch.float64, device=weight.device)
        diagonal[rows, rows % C, 0, 0] = added
        added = diagonal
    else:
        padding = small.kwargs["padding"]
        if any(small.kwargs[name] != k[name] for name in ("stride", "dilation", "groups")) or added.shape[:2] != (K, C):
            return None
    r, s = added.shape[2:]
    top, bottom, left, right = (p - q for p, q in zip(k["padding"], padding, strict=True))
    # Both outputs have one size, and every tap of the small kernel reads the pixel that a tap of the large one does.
    if k["dilation"] != (1, 1) or min(top, bottom, left, right) < 0 or (top + bottom, left + right) != (R - r, S - s):
        return None
    weight[:, :, top : top + r, left : left + s] += added
    return weight, bias


def _double(network: Network, node: Node) -> Tensor:
    return network.attributes[str(node.target)].double()
