"""A scale and a shift a channel go into the weights of the layer before them, or of a convolution after them.

s * (W x + b) + t = (s W) x + (s b + t): batch normalisation, layer scale, the normalisation of an image. Two in a row
become one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, Node, is_call, is_constant, only_user, value


def fold_batch_norm(network: Network) -> None:
    for affine in network.nodes(v.affine):
        source = affine.args[0]
        if not only_user(source) or source.kwargs.get("activation") is not None:
            continue
        if is_call(source, v.affine):
            _join(network, source, affine)
        elif _is_layer(source) and value(affine).dtype == value(source).dtype:
            _into_producer(network, source, affine)
    for affine in network.nodes(v.affine):
        if only_user(affine) and affine.kwargs["activation"] is None:
            (user,) = affine.users
            # Padding would have to be padded with -shift/scale, so only an unpadded convolution will do.
            if is_call(user, v.conv2d) and user.args[0] is affine and user.kwargs["padding"] == (0, 0, 0, 0):
                _into_consumer(network, affine, user)


def _is_layer(node: Node) -> bool:
    """A convolution or linear layer with constant weights that adds nothing."""
    if not is_call(node, v.conv2d, v.linear) or node.args[3:] not in ((), (None,)):
        return False
    return is_constant(node.args[1]) and (node.args[2] is None or is_constant(node.args[2]))


def _join(network: Network, first: Node, second: Node) -> None:
    input, scale, shift = first.args
    with network.graph.inserting_before(second):
        s = network.call(torch.mul, scale, second.args[1])
        t = network.call(_shifted, shift, second.args[1], second.args[2])
        new = network.call_like(second, v.affine, input, s, t, activation=second.kwargs["activation"])
    network.replace(second, new, first)


def _into_producer(network: Network, layer: Node, affine: Node) -> None:
    input, weight, bias, *rest = layer.args
    _, scale, shift = affine.args
    with network.graph.inserting_before(affine):
        w = network.call(scaled_rows, weight, scale)
        b = network.call(folded_bias, bias, scale, shift, value(weight).dtype)
        options = {**layer.kwargs, "activation": affine.kwargs["activation"]}
        new = network.call_like(affine, layer.target, input, w, b, *rest, **options)
    network.replace(affine, new, layer)


def _into_consumer(network: Network, affine: Node, conv: Node) -> None:
    _, weight, bias, residual = conv.args
    input, scale, shift = affine.args
    if not is_constant(weight) or (bias is not None and not is_constant(bias)):
        return
    groups = conv.kwargs["groups"]
    with network.graph.inserting_before(conv):
        w = network.call(scaled_columns, weight, scale, groups)
        b = network.call(shifted_bias, weight, bias, shift, groups)
        new = network.call_like(conv, v.conv2d, input, w, b, residual, **conv.kwargs)
    labels = network.fused.get(affine, [])
    network.replace(conv, new)
    network.fused[new] = list(dict.fromkeys([*labels, *network.fused[new]]))
    network.drop_unused()


# ---- on the weights --------------------------------------------------------------------------------------------


def _shifted(shift: Tensor, scale: Tensor, more: Tensor) -> Tensor:
    return shift * scale + more


def scaled_rows(weight: Tensor, scale: Tensor) -> Tensor:
    wide = scale.double().view(-1, *[1] * (weight.dim() - 1))
    return (weight.double() * wide).to(weight.dtype).contiguous()


def folded_bias(bias: Tensor | None, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    return (shift if bias is None else bias.double() * scale + shift).to(dtype)


def _grouped(coefficients: Tensor, weight: Tensor, groups: int) -> Tensor:
    """(K, C / groups): output channel k reads the input channels of its group."""
    K, C = weight.shape[:2]
    return coefficients.view(groups, 1, C).expand(groups, K // groups, C).reshape(K, C)


def scaled_columns(weight: Tensor, scale: Tensor, groups: int) -> Tensor:
    s = _grouped(scale.double(), weight, groups)
    return (weight.double() * s[:, :, None, None]).to(weight.dtype).contiguous()


def shifted_bias(weight: Tensor, bias: Any, shift: Tensor, groups: int) -> Tensor:
    t = (weight.double().sum((2, 3)) * _grouped(shift.double(), weight, groups)).sum(1)
    return (t if bias is None else bias.double() + t).to(weight.dtype)
