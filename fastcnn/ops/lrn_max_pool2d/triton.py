"""lrn_max_pool2d in Triton."""

from __future__ import annotations

import math

from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core.candidate import Runner
from fastcnn.ops.lrn_max_pool2d.contract import LrnMaxPool2dProblem


def _prepare(problem: LrnMaxPool2dProblem) -> Runner:
    from fastcnn.ops.lrn_max_pool2d.triton_kernels import lrn_max_pool2d

    return triton_backend.unary_runner(lrn_max_pool2d(problem), problem)


def _elements(problem: LrnMaxPool2dProblem) -> int:
    return math.prod(problem.first.output_shape) + math.prod(problem.output_shape)


NOTE = triton_backend.memory_note(_elements)
CANDIDATES = (triton_backend.candidate("lrn_max_pool2d", "lrn_max_pool2d", _prepare, note=NOTE),)
