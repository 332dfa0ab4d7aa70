"""concat in Triton: each input is copied into its channel slice."""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor

from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core import layout
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.ops.concat.contract import ConcatProblem


def _supports(problem: ConcatProblem) -> str | None:
    if problem.dtype.itemsize not in (1, 2, 4, 8):
        return f"an element of {problem.dtype} has {problem.dtype.itemsize} bytes; 1, 2, 4 or 8 can be copied"
    return triton_backend.reason_against("concat.triton.copy_slice", problem, dtypes=(problem.dtype,))


def _prepare(problem: ConcatProblem) -> Runner:
    from fastcnn.ops.concat import triton_kernels

    launches = [
        triton_kernels.copy_slice(problem, C, x_stride) for C, x_stride in zip(problem.C, problem.x_stride, strict=True)
    ]
    starts = list(accumulate(problem.C[:-1], initial=0))
    integer = triton_kernels.INTEGERS[problem.dtype.itemsize]

    def run(*tensors_and_out: Tensor) -> Tensor:
        *tensors, out = tensors_and_out
        y = layout.empty(problem.output_shape, tensors[0]) if out is None else out
        elements = _integers(y, integer)
        for launch, start, C, tensor in zip(launches, starts, problem.C, tensors, strict=True):
            launch(_integers(layout.channels_last(tensor), integer), elements.narrow(1, start, C))
        return y

    return run


def _integers(tensor: Tensor, integer: torch.dtype) -> Tensor:
    """The tensor's bits. A view of a view's dtype is refused where conjugation or negation is pending."""
    return tensor.resolve_conj().resolve_neg().view(integer)


CANDIDATES = (
    Candidate(
        "triton",
        "copy_slice",
        _supports,
        _prepare,
        dtypes=("every dtype of PyTorch",),
        architectures=triton_backend.ARCHITECTURES,
        note=triton_backend.memory_note(lambda problem: 2 * math.prod(problem.output_shape)),
    ),
)
