"""subsample2d by the native CPU kernel."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastcnn import native
from fastcnn.dispatch import Candidate, Runner
from fastcnn.ops import layout, native_cpu
from fastcnn.ops.subsample2d.contract import Subsample2dProblem


def native_problem(problem: Subsample2dProblem) -> Any:
    names = ("dtype", "activation", "N", "H", "W", "C", "P", "Q", "kernel_size", "x_stride", "y_stride")
    return native.struct("Subsample2dProblem", **{name: getattr(problem, name) for name in names})


def _prepare(problem: Subsample2dProblem) -> Runner:
    call, struct = native.library().cpu.subsample2d, native_problem(problem)
    shape, threads = problem.output_shape, problem.threads

    def run(input: Tensor, coefficient: Tensor, bias: Tensor, out: Tensor | None) -> Tensor:
        x = layout.channels_last(input)
        c, b = native_cpu.float32(coefficient), native_cpu.float32(bias)
        y = layout.empty(shape, input) if out is None else out
        call(struct, x.data_ptr(), c.data_ptr(), b.data_ptr(), y.data_ptr(), threads)
        return y

    return run


CANDIDATES: tuple[Candidate, ...] = (
    Candidate("cpu", "subsample2d", native_cpu.reason_against, _prepare, dtypes=native_cpu.DTYPES),
)
