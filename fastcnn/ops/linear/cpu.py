"""linear by the native CPU kernel, which reads the weight in place."""

from __future__ import annotations

import torch
from torch import Tensor

from fastcnn.backends import cpu as native_cpu
from fastcnn.core import layout, native
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.ops.linear.contract import LinearProblem


def _supports(problem: LinearProblem) -> str | None:
    reason = native_cpu.reason_against(problem)
    if reason is None and not problem.plain:
        return "weight is not (out_features, in_features) or bias is not (out_features,)"
    return reason


def native_problem(problem: LinearProblem) -> native.extension.LinearProblem:
    return native.struct(
        native.extension.LinearProblem,
        dtype=problem.dtype,
        weight_dtype=problem.dtype,
        activation=problem.activation,
        has_bias=problem.has_bias,
        N=problem.N,
        D=problem.D,
        M=problem.M,
        x_stride=problem.D,
        weight_stride=problem.D if problem.weight_stride is None else problem.weight_stride,
        y_stride=problem.M,
    )


def _prepare(problem: LinearProblem) -> Runner:
    weight_in_place = problem.weight_stride is not None
    bias_in_place = not problem.has_bias or problem.dtype is torch.float32
    return native_cpu.runner(
        native.extension.cpu.linear, problem, native_problem(problem),
        in_place=problem.in_place and weight_in_place and bias_in_place,
        read=[Tensor.contiguous, (lambda weight: weight) if weight_in_place else Tensor.contiguous, native_cpu.float32],
        strides=layout.contiguous_strides(problem.output_shape),
    )  # fmt: skip


CANDIDATES = (Candidate("cpu", "linear", _supports, _prepare, dtypes=native_cpu.DTYPES),)
