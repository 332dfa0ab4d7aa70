"""rbf in CUDA C++."""

from __future__ import annotations

from torch import Tensor

from fastcnn.backends import cuda as cuda_backend
from fastcnn.core.candidate import Runner
from fastcnn.ops.rbf.contract import RbfProblem
from fastcnn.ops.rbf.cpu import native_problem
from fastcnn.ops.rbf.reference import CANDIDATES as REFERENCE


def _prepare(problem: RbfProblem) -> Runner:
    call, struct, device = cuda_backend.kernels().rbf, native_problem(problem), problem.device

    def run(input: Tensor, centers: Tensor, out: Tensor | None) -> Tensor:
        x, c = input.contiguous(), centers.contiguous()
        y = problem.empty_output(input)
        cuda_backend.launch(device, call, struct, x.data_ptr(), c.data_ptr(), y.data_ptr())
        return y

    return run


CANDIDATES = (cuda_backend.candidate("rbf", "rbf", _prepare, REFERENCE[0]),)
