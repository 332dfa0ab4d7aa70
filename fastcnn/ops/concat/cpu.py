"""concat by the native CPU kernel: the inputs are copied into their channel slices."""

from __future__ import annotations

from itertools import accumulate

import torch

from fastcnn.backends import cpu as native_cpu
from fastcnn.core import layout, native
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.ops.concat.contract import ConcatProblem


def _supports(problem: ConcatProblem) -> str | None:
    # A copy computes nothing, so every dtype will do.
    return native_cpu.reason_against(problem._replace(dtype=torch.float32))


def native_problems(problem: ConcatProblem) -> list[tuple[native.extension.CopySliceProblem, int]]:
    """For each input its copy, and where its slice begins, in bytes."""
    size = problem.dtype.itemsize
    structs = [
        native.struct(
            native.extension.CopySliceProblem,
            element_size=size,
            pixels=problem.N * problem.H * problem.W,
            C=C,
            x_stride=x_stride,
            y_stride=problem.y_stride,
        )
        for C, x_stride in zip(problem.C, problem.x_stride, strict=True)
    ]
    starts = accumulate(problem.C[:-1], initial=0)
    return [(struct, start * size) for struct, start in zip(structs, starts, strict=True)]


def _prepare(problem: ConcatProblem) -> Runner:
    structs = [struct for struct, _ in native_problems(problem)]
    return native_cpu.runner(
        native.extension.cpu.concat, problem, structs,
        in_place=problem.in_place, read=[layout.channels_last] * len(structs),
    )  # fmt: skip


CANDIDATES = (Candidate("cpu", "concat", _supports, _prepare, dtypes=("every dtype of PyTorch",)),)
