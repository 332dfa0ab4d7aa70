"""lrn_max_pool2d by the native CPU kernel."""

from __future__ import annotations

from fastcnn.backends import cpu as native_cpu
from fastcnn.core import layout, native
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.ops.lrn.cpu import native_problem
from fastcnn.ops.lrn_max_pool2d.contract import LrnMaxPool2dProblem
from fastcnn.ops.pool.cpu import native_pool2d


def structs(problem: LrnMaxPool2dProblem) -> tuple[native.extension.LrnProblem, native.extension.Pool2dProblem]:
    """The normalisation and the window as the kernels take them."""
    # What is read is the normalisation's input.
    return native_problem(problem.first), native_pool2d(problem.second._replace(x_stride=problem.first.x_stride))


def _prepare(problem: LrnMaxPool2dProblem) -> Runner:
    return native_cpu.runner(
        native.extension.cpu.lrn_max_pool2d, problem, *structs(problem),
        in_place=problem.first.in_place, read=[layout.channels_last],
    )  # fmt: skip


CANDIDATES = (Candidate("cpu", "lrn_max_pool2d", native_cpu.reason_against, _prepare, dtypes=native_cpu.DTYPES),)
