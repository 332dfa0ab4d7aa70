"""What the native CPU candidates share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastcnn import native
from fastcnn.dispatch import Candidate, Runner
from fastcnn.ops import layout

DTYPES: tuple[str, ...] = tuple(native.DTYPES.values())


def reason_against(problem: Any) -> str | None:
    """Why the native CPU kernels cannot take a problem at all; None if they may."""
    if native.extension is None:
        return native.unavailable
    if problem.device.type != "cpu":
        return f"the input is on {problem.device}"
    if problem.dtype not in native.DTYPES:
        return f"{problem.dtype} is not one of {', '.join(DTYPES)}"
    if problem.y_stride is None:
        return "out is not a channels_last tensor or channel slice, or overlaps an input"
    return None


def float32(tensor: Tensor) -> Tensor:
    """A bias or another constant as the kernels read it."""
    if tensor.dtype is torch.float32 and tensor.is_contiguous():
        return tensor
    return tensor.to(torch.float32).contiguous()


def unary_candidates(kernel: str, native_problem: Callable[[Any], Any]) -> tuple[Candidate, ...]:
    """The candidate for `_C.cpu.<kernel>(problem, x, y, threads)`, an operator with one activation in."""

    def prepare(problem: Any) -> Runner:
        call, struct = getattr(native.library().cpu, kernel), native_problem(problem)
        shape, threads = problem.output_shape, problem.threads

        def run(input: Tensor, out: Tensor | None) -> Tensor:
            x = layout.channels_last(input)
            y = layout.empty(shape, input) if out is None else out
            call(struct, x.data_ptr(), y.data_ptr(), threads)
            return y

        return run

    return (Candidate("cpu", kernel, reason_against, prepare, dtypes=DTYPES),)
