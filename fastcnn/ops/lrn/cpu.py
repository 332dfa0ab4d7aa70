"""local_response_norm by the native CPU kernel."""

from __future__ import annotations

from fastcnn.backends import cpu as native_cpu
from fastcnn.core import native
from fastcnn.ops.lrn.contract import LrnProblem


def native_problem(problem: LrnProblem) -> native.extension.LrnProblem:
    return native.struct(
        native.extension.LrnProblem,
        dtype=problem.dtype,
        pixels=problem.N * problem.H * problem.W,
        C=problem.C,
        size=problem.size,
        alpha=problem.alpha,
        beta=problem.beta,
        k=problem.k,
        x_stride=problem.x_stride,
        y_stride=problem.y_stride,
    )


CANDIDATES = native_cpu.unary_candidates("lrn", native_problem)
