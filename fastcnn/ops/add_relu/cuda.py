"""add_relu in CUDA C++."""

from __future__ import annotations

from torch import Tensor

from fastcnn.backends import cuda as cuda_backend
from fastcnn.core import layout
from fastcnn.core.candidate import Runner
from fastcnn.ops.add_relu.contract import AddReluProblem
from fastcnn.ops.add_relu.cpu import native_problem
from fastcnn.ops.add_relu.reference import CANDIDATES as REFERENCE


def _supports(problem: AddReluProblem) -> str | None:
    if not problem.flat and len(problem.output_shape) != 4:
        return "the inputs are laid out differently and are not 4-D"
    return None


def _prepare(problem: AddReluProblem) -> Runner:
    call, struct, device = cuda_backend.kernels().add_relu, native_problem(problem), problem.device

    def run(input: Tensor, other: Tensor, out: Tensor | None) -> Tensor:
        a, b = (input, other) if problem.flat else (layout.channels_last(input), layout.channels_last(other))
        y = problem.empty_output(input) if out is None else out
        cuda_backend.launch(device, call, struct, a.data_ptr(), b.data_ptr(), y.data_ptr())
        return y

    return run


CANDIDATES = (cuda_backend.candidate("add_relu", "add_relu", _prepare, REFERENCE[0], _supports),)
