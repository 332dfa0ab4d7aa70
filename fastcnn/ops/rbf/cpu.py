"""rbf by the native CPU kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from fastcnn.backends import cpu as native_cpu
from fastcnn.core import layout, native
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.ops.rbf.contract import RbfProblem


def native_problem(problem: RbfProblem) -> native.extension.RbfProblem:
    return native.struct(
        native.extension.RbfProblem,
        dtype=problem.dtype,
        N=problem.N,
        D=problem.D,
        M=problem.M,
        x_stride=problem.D,
        y_stride=problem.M,
    )


def _prepare(problem: RbfProblem) -> Runner:
    return native_cpu.runner(
        native.extension.cpu.rbf, problem, native_problem(problem),
        in_place=problem.in_place and problem.dtype is torch.float32, read=[Tensor.contiguous, native_cpu.float32],
        strides=layout.contiguous_strides(problem.output_shape),
    )  # fmt: skip


CANDIDATES = (Candidate("cpu", "rbf", native_cpu.reason_against, _prepare, dtypes=native_cpu.DTYPES),)
