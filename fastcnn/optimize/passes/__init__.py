"""The rewriting of a network, one pass a file, in the order in which they run."""

from __future__ import annotations

from fastcnn.optimize.passes.fold_batch_norm import fold_batch_norm
from fastcnn.optimize.passes.fuse_activation import fuse_activation
from fastcnn.optimize.passes.fuse_conv_pool import fuse_conv_pool
from fastcnn.optimize.passes.fuse_lrn_pool import fuse_lrn_pool
from fastcnn.optimize.passes.fuse_residual import fuse_residual
from fastcnn.optimize.passes.merge_parallel import merge_parallel

PASSES = (fold_batch_norm, merge_parallel, fuse_residual, fuse_activation, fuse_lrn_pool)

__all__ = ["PASSES", "fuse_conv_pool"]
