"""rbf in Triton."""

from __future__ import annotations

from torch import Tensor

from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core.candidate import Runner
from fastcnn.ops.rbf.contract import RbfProblem


def _prepare(problem: RbfProblem) -> Runner:
    from fastcnn.ops.rbf import triton_kernels

    launch = triton_kernels.rbf(problem)

    def run(input: Tensor, centers: Tensor, out: Tensor | None) -> Tensor:
        y = problem.empty_output(input)
        launch(input.contiguous(), centers.contiguous(), y)
        return y

    return run


def _elements(p: RbfProblem) -> int:
    return p.N * p.D + p.M * p.D + p.N * p.M


NOTE = triton_backend.memory_note(_elements)
CANDIDATES = (triton_backend.candidate("rbf", "rbf", _prepare, note=NOTE),)
