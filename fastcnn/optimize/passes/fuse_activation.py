"""An activation goes into the epilogue of the operator whose result it alone reads."""

from __future__ import annotations

import torch

from fastcnn.core import activations
from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, Node, is_call, only_user


def fuse_activation(network: Network) -> None:
    for activate in network.nodes(v.activate):
        _before_reshape(network, activate)
    for activate in network.nodes(v.activate):
        kind, source = activate.kwargs["activation"], activate.args[0]
        allowed = (None, "relu") if is_call(source, v.add) else activations.NAMES
        if not is_call(source, v.conv2d, v.linear, v.affine, v.add) or kind not in allowed or not only_user(source):
            continue
        if source.kwargs.get("activation") is not None:
            continue
        with network.graph.inserting_before(activate):
            new = network.call_like(activate, source.target, *source.args, **{**source.kwargs, "activation": kind})
        network.replace(activate, new, source)


def _before_reshape(network: Network, activate: Node) -> None:
    """act(reshape(linear(x))) = reshape(act(linear(x))): PyTorch runs a linear layer on rows, whatever the shape."""
    reshape = activate.args[0]
    if not is_call(reshape, torch.ops.aten.reshape.default) or not only_user(reshape):
        return
    linear = reshape.args[0]
    if not is_call(linear, v.linear) or not only_user(linear):
        return
    with network.graph.inserting_before(reshape):
        inner = network.call_like(linear, v.activate, linear, **activate.kwargs)
    network.fused[inner] = network.fused.pop(activate, [])
    reshape.replace_input_with(linear, inner)
    network.remove(activate, reshape)
