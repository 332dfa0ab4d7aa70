"""subsample2d by the native CPU kernel."""

from __future__ import annotations

import torch

from fastcnn.backends import cpu as native_cpu
from fastcnn.core import layout, native
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.ops.subsample2d.contract import Subsample2dProblem


def native_problem(problem: Subsample2dProblem) -> native.extension.Subsample2dProblem:
    names = ("dtype", "activation", "N", "H", "W", "C", "P", "Q", "kernel_size", "x_stride", "y_stride")
    return native.struct(native.extension.Subsample2dProblem, **{name: getattr(problem, name) for name in names})


def _prepare(problem: Subsample2dProblem) -> Runner:
    return native_cpu.runner(
        native.extension.cpu.subsample2d, problem, native_problem(problem),
        in_place=problem.in_place and problem.dtype is torch.float32,
        read=[layout.channels_last, native_cpu.float32, native_cpu.float32],
    )  # fmt: skip


CANDIDATES = (Candidate("cpu", "subsample2d", native_cpu.reason_against, _prepare, dtypes=native_cpu.DTYPES),)
