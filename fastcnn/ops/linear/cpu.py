"""linear by the native CPU kernel, which reads the weight in place."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastcnn import native
from fastcnn.dispatch import Candidate, Runner
from fastcnn.ops import native_cpu
from fastcnn.ops.linear.contract import LinearProblem


def _supports(problem: LinearProblem) -> str | None:
    reason = native_cpu.reason_against(problem)
    if reason is None and not problem.plain:
        return "weight is not (out_features, in_features) or bias is not (out_features,)"
    return reason


def native_problem(problem: LinearProblem) -> Any:
    return native.struct(
        "LinearProblem",
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
    call, struct, threads = native.library().cpu.linear, native_problem(problem), problem.threads
    in_place = problem.weight_stride is not None

    def run(input: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
        x = input.contiguous()
        w = weight if in_place else weight.contiguous()
        b = None if bias is None else native_cpu.float32(bias)
        y = problem.empty_output(input)
        call(struct, x.data_ptr(), w.data_ptr(), native.pointer(b), y.data_ptr(), threads)
        return y

    return run


CANDIDATES: tuple[Candidate, ...] = (Candidate("cpu", "linear", _supports, _prepare, dtypes=native_cpu.DTYPES),)
