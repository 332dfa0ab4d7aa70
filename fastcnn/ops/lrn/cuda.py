"""local_response_norm in CUDA C++, alone or with the max-pool that follows it."""

from __future__ import annotations

from torch import Tensor

from fastcnn.dispatch import Candidate, Runner
from fastcnn.ops import cuda_backend, layout
from fastcnn.ops.lrn import contract
from fastcnn.ops.lrn.cpu import native_problem
from fastcnn.ops.lrn.reference import CANDIDATES as REFERENCE
from fastcnn.ops.pool.contract import Pool2dProblem
from fastcnn.ops.pool.cpu import native_pool2d


def lrn_max_pool2d(lrn: contract.LrnProblem, pool: Pool2dProblem) -> Runner:
    """run(input, out) for max_pool2d(local_response_norm(input)) in one pass over memory.

    For graph passes, which know both problems; `pool` is that of the normalisation's output. Launches are not
    guarded: whether the kernel was verified on the device is the caller's question to the ledger.

    Raises:
        ValueError: the pool's input is not the normalisation's output, or it is no max-pool.
    """
    if pool.mode != "max" or lrn.output_shape != (pool.N, pool.C, pool.H, pool.W) or pool.dtype != lrn.dtype:
        raise ValueError(f"lrn_max_pool2d: {pool.summary()} is not a max-pool of {lrn.summary()}")
    call, normalisation, window = cuda_backend.kernels().lrn_max_pool, native_problem(lrn), native_pool2d(pool)
    window.x_stride = lrn.x_stride  # what is read is the normalisation's input
    shape, device = pool.output_shape, lrn.device

    def run(input: Tensor, out: Tensor | None) -> Tensor:
        x = layout.channels_last(input)
        y = layout.empty(shape, input) if out is None else out
        cuda_backend.launch(device, call, normalisation, window, x.data_ptr(), y.data_ptr())
        return y

    return run


CANDIDATES: tuple[Candidate, ...] = (cuda_backend.unary_candidate(contract.NAME, "lrn", native_problem, REFERENCE[0]),)
