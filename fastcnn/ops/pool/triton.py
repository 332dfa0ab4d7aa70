"""The pools in Triton."""

from __future__ import annotations

from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.ops.pool.contract import AdaptiveAvgPool2dProblem, Pool2dProblem


def _prepare_pool(problem: Pool2dProblem) -> Runner:
    from fastcnn.ops.pool import triton_kernels

    return triton_backend.unary_runner(triton_kernels.pool2d(problem), problem)


def _prepare_adaptive(problem: AdaptiveAvgPool2dProblem) -> Runner:
    from fastcnn.ops.pool import triton_kernels

    return triton_backend.unary_runner(triton_kernels.adaptive_avg_pool2d(problem), problem)


NOTE = triton_backend.memory_note(triton_backend.image_elements)


def _pool(op: str) -> tuple[Candidate[Pool2dProblem], ...]:
    return (triton_backend.candidate(op, "pool2d", _prepare_pool, note=NOTE),)


MAX_CANDIDATES = _pool("max_pool2d")
AVG_CANDIDATES = _pool("avg_pool2d")
ADAPTIVE_CANDIDATES = (
    triton_backend.candidate("adaptive_avg_pool2d", "adaptive_avg_pool2d", _prepare_adaptive, note=NOTE),
)
