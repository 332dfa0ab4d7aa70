"""rbf by the native CPU kernel."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastcnn import native
from fastcnn.dispatch import Candidate, Runner
from fastcnn.ops import native_cpu
from fastcnn.ops.rbf.contract import RbfProblem


def native_problem(problem: RbfProblem) -> Any:
    return native.struct(
        "RbfProblem",
        dtype=problem.dtype,
        N=problem.N,
        D=problem.D,
        M=problem.M,
        x_stride=problem.D,
        y_stride=problem.M,
    )


def _prepare(problem: RbfProblem) -> Runner:
    call, struct, threads = native.library().cpu.rbf, native_problem(problem), problem.threads

    def run(input: Tensor, centers: Tensor, out: Tensor | None) -> Tensor:
        x, c = input.contiguous(), native_cpu.float32(centers)
        y = problem.empty_output(input)
        call(struct, x.data_ptr(), c.data_ptr(), y.data_ptr(), threads)
        return y

    return run


CANDIDATES: tuple[Candidate, ...] = (
    Candidate("cpu", "rbf", native_cpu.reason_against, _prepare, dtypes=native_cpu.DTYPES),
)
