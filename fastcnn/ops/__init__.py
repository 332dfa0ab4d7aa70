"""The operators: one folder each, with its contract and its kernels' candidates, best first."""

from fastcnn.ops import flops
from fastcnn.ops.add_relu import add_relu
from fastcnn.ops.concat import concat
from fastcnn.ops.conv2d import conv2d
from fastcnn.ops.conv2d_max_pool2d import conv2d_max_pool2d
from fastcnn.ops.linear import linear
from fastcnn.ops.lrn import local_response_norm
from fastcnn.ops.lrn_max_pool2d import lrn_max_pool2d
from fastcnn.ops.pool import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from fastcnn.ops.rbf import rbf
from fastcnn.ops.scale_channels import scale_channels
from fastcnn.ops.subsample2d import subsample2d

__all__ = [
    "adaptive_avg_pool2d",
    "add_relu",
    "avg_pool2d",
    "concat",
    "conv2d",
    "conv2d_max_pool2d",
    "linear",
    "local_response_norm",
    "lrn_max_pool2d",
    "max_pool2d",
    "rbf",
    "scale_channels",
    "subsample2d",
]

flops.register()
