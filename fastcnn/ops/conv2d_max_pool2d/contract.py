"""What conv2d_max_pool2d is asked: the convolution and the pool behind it."""

from __future__ import annotations

from fastcnn.ops.conv2d.contract import Conv2dProblem
from fastcnn.ops.fused import FusedProblem
from fastcnn.ops.pool.contract import Pool2dProblem

Conv2dMaxPool2dProblem = FusedProblem[Conv2dProblem, Pool2dProblem]
