"""y[n, m] = sum_d (x[n, d] - centers[m, d])^2, summed as written: the expanded form cancels."""

from __future__ import annotations

from fastcnn.backends.triton import common
from fastcnn.backends.triton.common import jit, tl
from fastcnn.ops.rbf.contract import RbfProblem


@jit
def rbf_kernel(
    x_ptr, centers_ptr, y_ptr, N, D, M, x_stride, y_stride,
    INT64: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n_mask = n < N
    m_mask = m < M
    if INT64:
        n = n.to(tl.int64)
        m = m.to(tl.int64)
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x_mask = n_mask[:, None] & (d < D)[None, :]
        c_mask = m_mask[:, None] & (d < D)[None, :]
        x = tl.load(x_ptr + n[:, None] * x_stride + d[None, :], mask=x_mask, other=0.0).to(tl.float32)
        centers = tl.load(centers_ptr + m[:, None] * D + d[None, :], mask=c_mask, other=0.0).to(tl.float32)
        difference = x[:, None, :] - centers[None, :, :]
        total += tl.sum(difference * difference, axis=2)
    mask = n_mask[:, None] & m_mask[None, :]
    tl.store(y_ptr + n[:, None] * y_stride + m[None, :], total.to(y_ptr.dtype.element_ty), mask=mask)


def rbf(p: RbfProblem) -> common.Launch:
    """Called with dense (x, centers, y)."""
    block_n, block_m, block_d = 8, 16, 32
    return common.Launch(
        rbf_kernel,
        [p.dtype] * 3,
        {"N": p.N, "D": p.D, "M": p.M, "x_stride": p.D, "y_stride": p.M},
        {
            "INT64": common.needs_int64(p.N * max(p.D, p.M), p.M * p.D),
            "BLOCK_N": block_n,
            "BLOCK_M": block_m,
            "BLOCK_D": block_d,
        },
        (common.ceil_div(p.N, block_n), common.ceil_div(p.M, block_m)),
    )
