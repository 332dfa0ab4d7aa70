"""Local response normalisation and the max-pooling that alone reads it become one call: nothing is written between."""

from __future__ import annotations

from fastcnn.optimize import vocabulary as v
from fastcnn.optimize.network import Network, is_call, only_user


def fuse_lrn_pool(network: Network) -> None:
    for pool in network.nodes(v.max_pool2d):
        lrn = pool.args[0]
        if not is_call(lrn, v.local_response_norm) or not only_user(lrn):
            continue
        with network.graph.inserting_before(pool):
            new = network.call_like(pool, v.lrn_max_pool2d, *lrn.args, **lrn.kwargs, **pool.kwargs)
        network.replace(pool, new, lrn)
