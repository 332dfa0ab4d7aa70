"""add_relu by the native CPU kernel."""

from __future__ import annotations

from fastcnn.backends import cpu as native_cpu
from fastcnn.core import layout, native
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.ops.add_relu.contract import AddReluProblem


def _supports(problem: AddReluProblem) -> str | None:
    reason = native_cpu.reason_against(problem)
    if reason is None and not problem.flat and len(problem.output_shape) != 4:
        return "the inputs are laid out differently and are not 4-D"
    return reason


def native_problem(problem: AddReluProblem) -> native.extension.AddReluProblem:
    if problem.flat:
        size = problem.numel
        return native.struct(
            native.extension.AddReluProblem,
            dtype=problem.dtype,
            pixels=1,
            C=size,
            a_stride=size,
            b_stride=size,
            y_stride=size,
        )
    N, C, H, W = problem.output_shape
    return native.struct(
        native.extension.AddReluProblem,
        dtype=problem.dtype,
        pixels=N * H * W,
        C=C,
        a_stride=problem.a_stride,
        b_stride=problem.b_stride,
        y_stride=problem.y_stride,
    )


def _prepare(problem: AddReluProblem) -> Runner:
    return native_cpu.runner(
        native.extension.cpu.add_relu, problem, native_problem(problem),
        in_place=problem.flat, read=[layout.channels_last] * 2, strides=problem.strides if problem.flat else None,
    )  # fmt: skip


CANDIDATES = (Candidate("cpu", "add_relu", _supports, _prepare, dtypes=native_cpu.DTYPES),)
