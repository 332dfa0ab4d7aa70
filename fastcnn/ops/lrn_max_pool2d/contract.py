"""What lrn_max_pool2d is asked: the normalisation and the pool behind it."""

from __future__ import annotations

from fastcnn.ops.fused import FusedProblem
from fastcnn.ops.lrn.contract import LrnProblem
from fastcnn.ops.pool.contract import Pool2dProblem

LrnMaxPool2dProblem = FusedProblem[LrnProblem, Pool2dProblem]
