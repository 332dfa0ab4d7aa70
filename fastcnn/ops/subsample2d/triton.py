"""subsample2d in Triton."""

from __future__ import annotations

from torch import Tensor

from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core import layout
from fastcnn.core.candidate import Runner
from fastcnn.ops.subsample2d.contract import Subsample2dProblem


def _prepare(problem: Subsample2dProblem) -> Runner:
    from fastcnn.ops.subsample2d import triton_kernels

    launch, shape = triton_kernels.subsample2d(problem), problem.output_shape

    def run(input: Tensor, coefficient: Tensor, bias: Tensor, out: Tensor | None) -> Tensor:
        x = layout.channels_last(input)
        y = layout.empty(shape, input) if out is None else out
        launch(x, coefficient.contiguous(), bias.contiguous(), y)
        return y

    return run


NOTE = triton_backend.memory_note(triton_backend.image_elements)
CANDIDATES = (triton_backend.candidate("subsample2d", "subsample2d", _prepare, note=NOTE),)
