"""Local response normalisation across channels.

The window lies on contiguous channels, so its other channels are neighbours in memory: they are loaded again,
shifted, and come from L1. Memory is passed over once, where PyTorch's own composition passes over it ~16 times.
"""

from __future__ import annotations

from fastcnn.backends.triton import common
from fastcnn.backends.triton.backend import output_stride
from fastcnn.backends.triton.common import jit, tl
from fastcnn.ops.lrn.contract import LrnProblem


@jit
def normalise(x_row, c, valid, C, scale, k, SIZE: tl.constexpr, BETA: tl.constexpr):
    """x * (k + scale * sum of x^2 over the window)^-BETA for pointers to rows and channels c."""
    total = tl.zeros(valid.shape, tl.float32)
    x = total
    for i in tl.static_range(SIZE):
        j = c + (i - SIZE // 2)
        v = tl.load(x_row + j, mask=valid & (j >= 0) & (j < C), other=0.0).to(tl.float32)
        total += v * v
        if i == SIZE // 2:
            x = v
    base = k + scale * total
    if BETA == 0.75:  # b^-3/4 = b^-1/2 * sqrt(b^-1/2): no logarithm, and closer
        root = tl.rsqrt(base)
        return x * (root * tl.sqrt(root))
    return x * tl.exp2(-BETA * tl.log2(base))


@jit
def lrn_kernel(
    x_ptr, y_ptr, pixels, C, x_stride, y_stride, scale, k,
    SIZE: tl.constexpr, BETA: tl.constexpr, INT64: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (row < pixels)[:, None] & (c < C)[None, :]
    if INT64:
        row = row.to(tl.int64)
    y = normalise(x_ptr + row[:, None] * x_stride, c[None, :], mask, C, scale, k, SIZE, BETA)
    tl.store(y_ptr + row[:, None] * y_stride + c[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


def lrn(p: LrnProblem) -> common.Launch:
    """Called with (x, y)."""
    pixels = p.N * p.H * p.W
    tile = common.RowTile.of(p.C)
    return common.Launch(
        lrn_kernel,
        [p.dtype] * 2,
        {
            "pixels": pixels,
            "C": p.C,
            "x_stride": p.x_stride,
            "y_stride": output_stride(p),
            "scale": float(p.alpha) / p.size,
            "k": float(p.k),
        },
        {
            "SIZE": p.size,
            "BETA": float(p.beta),
            "INT64": common.needs_int64(pixels * max(p.x_stride, output_stride(p))),
            "BLOCK_P": tile.pixels,
            "BLOCK_C": tile.channels,
        },
        tile.grid(pixels, p.C),
    )
