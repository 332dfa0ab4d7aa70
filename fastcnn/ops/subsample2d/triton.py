"""subsample2d in Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from fastcnn.dispatch import Runner
from fastcnn.ops import layout, triton_backend
from fastcnn.ops.subsample2d.contract import Subsample2dProblem


def _prepare(problem: Subsample2dProblem) -> Runner:
    from fastcnn.ops.subsample2d import triton_kernels

    launch, shape = triton_kernels.subsample2d(problem), problem.output_shape

    def run(input: Tensor, coefficient: Tensor, bias: Tensor, out: Tensor | None) -> Tensor:
        x = layout.channels_last(input)
        c, b = (t.to(torch.float32).contiguous() for t in (coefficient, bias))
        y = layout.empty(shape, input) if out is None else out
        launch(x, c, b, y)
        return y

    return run


CANDIDATES = (triton_backend.candidate("subsample2d", "subsample2d", _prepare),)
