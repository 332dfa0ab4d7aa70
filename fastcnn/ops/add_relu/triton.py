"""add_relu in Triton."""

from __future__ import annotations

import math

from torch import Tensor

from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core import layout
from fastcnn.core.candidate import Runner
from fastcnn.ops.add_relu.contract import AddReluProblem


def _supports(problem: AddReluProblem) -> str | None:
    if not problem.flat and len(problem.output_shape) != 4:
        return "the inputs are laid out differently and are not 4-D"
    return None


def _prepare(problem: AddReluProblem) -> Runner:
    from fastcnn.ops.add_relu import triton_kernels

    launch = triton_kernels.add_relu(problem)

    def run(input: Tensor, other: Tensor, out: Tensor | None) -> Tensor:
        a, b = (input, other) if problem.flat else (layout.channels_last(input), layout.channels_last(other))
        y = problem.empty_output(input) if out is None else out
        launch(a, b, y)
        return y

    return run


NOTE = triton_backend.memory_note(lambda problem: 3 * math.prod(problem.output_shape))
CANDIDATES = (triton_backend.candidate("add_relu", "add_relu", _prepare, _supports, NOTE),)
