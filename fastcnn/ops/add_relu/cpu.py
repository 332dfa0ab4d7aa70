"""add_relu by the native CPU kernel."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastcnn import native
from fastcnn.dispatch import Candidate, Runner
from fastcnn.ops import layout, native_cpu
from fastcnn.ops.add_relu.contract import AddReluProblem


def _supports(problem: AddReluProblem) -> str | None:
    reason = native_cpu.reason_against(problem)
    if reason is None and not problem.flat and len(problem.output_shape) != 4:
        return "the inputs are laid out differently and are not 4-D"
    return reason


def native_problem(problem: AddReluProblem) -> Any:
    if problem.flat:
        size = problem.numel
        return native.struct(
            "AddReluProblem",
            dtype=problem.dtype,
            pixels=1,
            C=size,
            a_stride=size,
            b_stride=size,
            y_stride=size,
        )
    N, C, H, W = problem.output_shape
    return native.struct(
        "AddReluProblem",
        dtype=problem.dtype,
        pixels=N * H * W,
        C=C,
        a_stride=problem.a_stride,
        b_stride=problem.b_stride,
        y_stride=problem.y_stride,
    )


def _prepare(problem: AddReluProblem) -> Runner:
    call, struct, threads = native.library().cpu.add_relu, native_problem(problem), problem.threads

    def run(input: Tensor, other: Tensor, out: Tensor | None) -> Tensor:
        a, b = (input, other) if problem.flat else (layout.channels_last(input), layout.channels_last(other))
        y = problem.empty_output(input) if out is None else out
        call(struct, a.data_ptr(), b.data_ptr(), y.data_ptr(), threads)
        return y

    return run


CANDIDATES: tuple[Candidate, ...] = (Candidate("cpu", "add_relu", _supports, _prepare, dtypes=native_cpu.DTYPES),)
