"""The sum of convolutions and normalisations of one input becomes one convolution, as in RepVGG and MobileOne.

A smaller kernel is a larger one with zeros around it; a normalisation is a 1x1 kernel on the diagonal.

Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, Node, is_call, is_constant, only_user, value


def merge_parallel(network: Network) -> None:
    for add in network.nodes(v.add):
        terms = sorted(add.args, key=lambda node: -_kernel_size(node))
        if any(not _is_linear(node) for node in terms) or terms[0].args[0] is not terms[1].args[0]:
            continue
        large, small = terms
        if not is_call(large, v.conv2d) or add.kwargs["activation"] is not None:
            continue
        where = _corner(large, small)
        if where is None:
            continue
        with network.graph.inserting_before(add):
            weight, bias = large.args[1:3]
            if is_call(small, v.affine):
                w = network.call(with_diagonal, weight, small.args[1], where)
            else:
                w = network.call(with_kernel, weight, small.args[1], where)
            biases = [b for b in (bias, small.args[2]) if b is not None]
            b = network.call(sum_of_biases, biases, value(weight).dtype) if biases else None
            new = network.call_like(add, v.conv2d, large.args[0], w, b, None, **large.kwargs)
        network.replace(add, new, large, small)


def _kernel_size(node: Node) -> int:
    return value(node.args[1])[0, 0].numel() if is_call(node, v.conv2d) else 0


def _is_linear(node: Node) -> bool:
    """Whether a node is a convolution, or a normalisation, by constants, that only the sum reads."""
    if not is_call(node, v.conv2d, v.affine) or not only_user(node) or node.kwargs["activation"] is not None:
        return False
    constants, residual = node.args[1:3], node.args[3:]
    return residual in ((), (None,)) and all(c is None or is_constant(c) for c in constants)


def _corner(large: Node, small: Node) -> tuple[int, int] | None:
    """Where the small kernel lies in the large one; None where it does not fit."""
    k = large.kwargs
    K, C, R, S = value(large.args[1]).shape
    added, padding = value(small.args[1]), (0, 0, 0, 0)
    if is_call(small, v.affine):
        if k["stride"] != (1, 1) or added.shape[0] != K or C * k["groups"] != K:
            return None
        r = s = 1
    else:
        padding = small.kwargs["padding"]
        if any(small.kwargs[name] != k[name] for name in ("stride", "dilation", "groups")) or added.shape[:2] != (K, C):
            return None
        r, s = added.shape[2:]
    top, bottom, left, right = (p - q for p, q in zip(k["padding"], padding, strict=True))
    # Both outputs have one size, and every tap of the small kernel reads the pixel that a tap of the large one does.
    if k["dilation"] != (1, 1) or min(top, bottom, left, right) < 0 or (top + bottom, left + right) != (R - r, S - s):
        return None
    return top, left


# ---- on the weights --------------------------------------------------------------------------------------------


def with_kernel(weight: Tensor, added: Tensor, corner: tuple[int, int]) -> Tensor:
    """The kernel, plus a smaller one whose first row and column lie at the corner."""
    (top, left), (R, S), (r, s) = corner, weight.shape[2:], added.shape[2:]
    wide = F.pad(added.double(), (left, S - s - left, top, R - r - top))
    return (weight.double() + wide).to(weight.dtype).contiguous()


def with_diagonal(weight: Tensor, scale: Tensor, corner: tuple[int, int]) -> Tensor:
    """The kernel, plus one of a single pixel that multiplies each channel by its scale."""
    K, C = weight.shape[:2]
    rows, columns = torch.arange(K, device=weight.device)[:, None], torch.arange(C, device=weight.device)
    diagonal = (columns == rows % C) * scale.double()[:, None]
    return with_kernel(weight, diagonal[:, :, None, None], corner)


def sum_of_biases(biases: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.stack([bias.double() for bias in biases]).sum(0).to(dtype)
