"""A linear layer after a flattened image reads it in memory order, channels last: its columns are reordered instead."""

from __future__ import annotations

from torch import fx

from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, is_call, only_user

# These keep the channels of their first input.
_KEEP = (
    v.affine, v.activate, v.max_pool2d, v.avg_pool2d, v.adaptive_avg_pool2d, v.local_response_norm, v.lrn_max_pool2d,
    v.subsample2d,
)  # fmt: skip


def flatten_images(network: Network) -> None:
    for linear in network.nodes(v.linear):
        flatten = linear.args[0]
        if not is_call(flatten, v.flatten) or not only_user(flatten):
            continue
        image, weight = flatten.args[0], network.tensor(linear.args[1])
        C = channels(network, image)
        if C is None or weight is None or weight.dim() != 2 or weight.shape[1] % C:
            continue
        if weight.shape[1] != C:  # else one pixel: both orders are one
            M, D = weight.shape
            weight = weight.view(M, C, D // C).transpose(1, 2).reshape(M, D)
            with network.graph.inserting_before(linear):
                node = network.constant(f"{linear.args[1].target}_channels_last", weight)
            linear.update_arg(1, node)
        with network.graph.inserting_before(flatten):
            new = network.graph.call_function(v.flatten_channels_last, (image,))
        network.replace(flatten, new)


def channels(network: Network, node: object) -> int | None:
    """How many channels an image has, where a layer before it tells."""
    while is_call(node, *_KEEP):
        assert isinstance(node, fx.Node)
        node = node.args[0]
    if is_call(node, v.conv2d):
        weight = network.tensor(node.args[1])  # type: ignore[attr-defined]
        return None if weight is None else weight.shape[0]
    if is_call(node, v.concat):
        counts = [channels(network, t) for t in node.args[0]]  # type: ignore[attr-defined]
        return None if None in counts else sum(counts)  # type: ignore[arg-type]
    if is_call(node, v.add, v.multiply):
        a, b = (channels(network, t) for t in node.args)  # type: ignore[attr-defined]
        return a if a == b else None
    return None
