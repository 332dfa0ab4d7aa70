"""Batch normalisation goes into the weights of the convolution or linear layer before it, or of a convolution after it.

s * (W x + b) + t = (s W) x + (s b + t)
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, Node, is_call, only_user


def fold_batch_norm(network: Network) -> None:
    for affine in network.nodes(v.affine):
        source = affine.args[0]
        if not is_call(source, v.conv2d, v.linear) or not only_user(source):
            continue
        if source.kwargs["activation"] is None and source.args[3:] in ((), (None,)):
            _into_producer(network, source, affine)
    for affine in network.nodes(v.affine):
        if only_user(affine) and affine.kwargs["activation"] is None:
            (user,) = affine.users
            # Padding would have to be padded with -shift/scale, so only an unpadded convolution will do.
            if is_call(user, v.conv2d) and user.args[0] is affine and user.kwargs["padding"] == (0, 0, 0, 0):
                _into_consumer(network, affine, user)


def _into_producer(network: Network, layer: Node, affine: Node) -> None:
    weight, scale, shift = (network.tensor(a) for a in (layer.args[1], *affine.args[1:]))
    if weight is None or scale is None or shift is None or weight.shape[0] != scale.shape[0]:
        return
    bias = _bias(network, layer, scale)
    if bias is None:
        return
    s = scale.double()
    wide = s.view(-1, *[1] * (weight.dim() - 1))
    _replace(network, layer, affine, weight.double() * wide, bias * s + shift.double(), layer.args[0], (layer,))


def _into_consumer(network: Network, affine: Node, conv: Node) -> None:
    scale, shift, weight = (network.tensor(a) for a in (*affine.args[1:], conv.args[1]))
    if weight is None or scale is None or shift is None:
        return
    bias = _bias(network, conv, weight)
    groups = conv.kwargs["groups"]
    K, C = weight.shape[:2]
    if bias is None or C * groups != scale.shape[0]:
        return
    # Output channel k reads the C input channels of its group.
    s, t = (c.double().view(groups, 1, C).expand(groups, K // groups, C).reshape(K, C) for c in (scale, shift))
    w = weight.double()
    _replace(network, conv, conv, w * s[:, :, None, None], bias + (w.sum((2, 3)) * t).sum(1), affine.args[0], (affine,))


def _bias(network: Network, layer: Node, like: Tensor) -> Tensor | None:
    """The layer's bias in float64, zeros where it has none; None if it is computed."""
    node = layer.args[2] if len(layer.args) > 2 else None
    if node is None:
        return torch.zeros(like.shape[0], dtype=torch.float64, device=like.device)
    bias = network.tensor(node)
    return None if bias is None else bias.double()


def _replace(
    network: Network, layer: Node, last: Node, weight: Tensor, bias: Tensor, input: Node,
    absorbed: tuple[Node, ...],
) -> None:  # fmt: skip
    weight_node = layer.args[1]
    dtype = network.attributes[str(weight_node.target)].dtype
    path = str(weight_node.target).rpartition(".")[0]
    with network.graph.inserting_before(last):
        w = network.constant(f"{path}.folded_weight", weight.to(dtype).contiguous())
        b = network.constant(f"{path}.folded_bias", bias.to(dtype))
        new = network.graph.call_function(layer.target, (input, w, b, *layer.args[3:]), dict(layer.kwargs))
    if layer is last:
        labels = network.fused.get(absorbed[0], [])
        network.replace(last, new)
        network.fused[new] = [*labels, *network.fused[new]]
        for node in absorbed:
            if not node.users:
                network.graph.erase_node(node)
                network.fused.pop(node, None)
    else:
        network.replace(last, new, *absorbed)
