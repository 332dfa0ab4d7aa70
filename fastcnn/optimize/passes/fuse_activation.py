"""An activation goes into the epilogue of the operator whose result it alone reads."""

from __future__ import annotations

from fastcnn.core import activations
from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, is_call, only_user


def fuse_activation(network: Network) -> None:
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
