"""Local response normalisation and the max-pool behind it, in one pass over memory.

A pixel is normalised anew for each window that holds it: 9/4 times as many sums as pixels for 3x3 / 2. They come from
the caches, and a pass over memory costs more.
"""

from __future__ import annotations

from fastcnn.backends.triton import common
from fastcnn.backends.triton.backend import output_stride
from fastcnn.backends.triton.common import jit, tl
from fastcnn.ops.lrn.triton_kernels import normalise
from fastcnn.ops.lrn_max_pool2d.contract import LrnMaxPool2dProblem
from fastcnn.ops.pool.triton_kernels import window_constants


@jit
def lrn_max_pool2d_kernel(
    x_ptr, y_ptr, rows, H, W, C, P, Q, x_stride, y_stride, scale, k,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    SIZE: tl.constexpr, BETA: tl.constexpr, INT64: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (row < rows)[:, None] & (c < C)[None, :]
    h0 = row // Q % P * STRIDE_H - PAD_H
    w0 = row % Q * STRIDE_W - PAD_W
    n = row // Q // P
    if INT64:
        n = n.to(tl.int64)
        row = row.to(tl.int64)
    best = tl.full((BLOCK_P, BLOCK_C), float("-inf"), tl.float32)
    for r in range(KERNEL_H):
        for s in range(KERNEL_W):
            h = h0 + r * DILATION_H
            w = w0 + s * DILATION_W
            inside = mask & ((h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None]
            pixel = x_ptr + (((n * H + h) * W + w) * x_stride)[:, None]
            x = normalise(pixel, c[None, :], inside, C, scale, k, SIZE, BETA)
            best = tl.where(inside & ((x > best) | (x != x)), x, best)
    tl.store(y_ptr + row[:, None] * y_stride + c[None, :], best.to(y_ptr.dtype.element_ty), mask=mask)


def lrn_max_pool2d(problem: LrnMaxPool2dProblem) -> common.Launch:
    """Called with (x, y)."""
    lrn, pool = problem.first, problem.second
    rows, y_stride = pool.N * pool.P * pool.Q, output_stride(problem)
    tile = common.RowTile.of(lrn.C)
    return common.Launch(
        lrn_max_pool2d_kernel,
        [lrn.dtype] * 2,
        {
            "rows": rows,
            "H": pool.H,
            "W": pool.W,
            "C": pool.C,
            "P": pool.P,
            "Q": pool.Q,
            "x_stride": lrn.x_stride,
            "y_stride": y_stride,
            "scale": float(lrn.alpha) / lrn.size,
            "k": float(lrn.k),
        },
        {
            **window_constants(pool),
            "SIZE": lrn.size,
            "BETA": float(lrn.beta),
            "INT64": common.needs_int64(pool.N * pool.H * pool.W * lrn.x_stride, rows * y_stride),
            "BLOCK_P": tile.pixels,
            "BLOCK_C": tile.channels,
        },
        tile.grid(rows, pool.C),
    )
