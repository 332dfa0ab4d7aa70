"""A convolution and the max-pooling that alone reads it become one call: GPU kernels compute a stem so.

Not among PASSES: a CPU's plan chooses its kernels when it is built. A program for a GPU starts with this pass.
"""

from __future__ import annotations

from fastcnn.core import activations
from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, is_call, only_user


def fuse_conv_pool(network: Network) -> None:
    for pool in network.nodes(v.max_pool2d):
        conv = pool.args[0]
        if not is_call(conv, v.conv2d) or not only_user(conv) or conv.args[3] is not None:
            continue
        if not activations.increasing(conv.kwargs["activation"]):
            continue
        own = {"stride": "conv_stride", "padding": "conv_padding", "dilation": "conv_dilation"}
        options = {own.get(name, name): value for name, value in conv.kwargs.items()}
        with network.graph.inserting_before(pool):
            new = network.call_like(pool, v.conv2d_max_pool2d, *conv.args[:3], **options, **pool.kwargs)
        network.replace(pool, new, conv)
