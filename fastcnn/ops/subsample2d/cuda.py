"""subsample2d in CUDA C++."""

from __future__ import annotations

from torch import Tensor

from fastcnn.backends import cuda as cuda_backend
from fastcnn.core import layout
from fastcnn.core.candidate import Runner
from fastcnn.ops.subsample2d.contract import Subsample2dProblem
from fastcnn.ops.subsample2d.cpu import native_problem
from fastcnn.ops.subsample2d.reference import CANDIDATES as REFERENCE


def _prepare(problem: Subsample2dProblem) -> Runner:
    call, struct = cuda_backend.kernels().subsample2d, native_problem(problem)
    shape, device = problem.output_shape, problem.device

    def run(input: Tensor, coefficient: Tensor, bias: Tensor, out: Tensor | None) -> Tensor:
        x, c, b = layout.channels_last(input), coefficient.contiguous(), bias.contiguous()
        y = layout.empty(shape, input) if out is None else out
        cuda_backend.launch(device, call, struct, x.data_ptr(), c.data_ptr(), b.data_ptr(), y.data_ptr())
        return y

    return run


CANDIDATES = (cuda_backend.candidate("subsample2d", "subsample2d", _prepare, REFERENCE[0]),)
