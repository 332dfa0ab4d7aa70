"""local_response_norm in Triton."""

from __future__ import annotations

from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core.candidate import Runner
from fastcnn.ops.lrn.contract import LrnProblem


def _prepare(problem: LrnProblem) -> Runner:
    from fastcnn.ops.lrn import triton_kernels

    return triton_backend.unary_runner(triton_kernels.lrn(problem), problem)


NOTE = triton_backend.memory_note(triton_backend.image_elements)
CANDIDATES = (triton_backend.candidate("local_response_norm", "lrn", _prepare, note=NOTE),)
