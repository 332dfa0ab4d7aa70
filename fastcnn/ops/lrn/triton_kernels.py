"""Local response normalisation, alone and with the max-pool that follows it in AlexNet and GoogLeNet.

The window lies on contiguous channels, so its other channels are neighbours in memory: they are loaded again,
shifted, and come from L1. Memory is passed over once, where PyTorch's own composition passes over it ~16 times.
"""

from __future__ import annotations

from fastcnn.ops import triton_common as common
from fastcnn.ops.lrn.contract import LrnProblem
from fastcnn.ops.pool.contract import Pool2dProblem
from fastcnn.ops.triton_backend import output_stride
from fastcnn.ops.triton_common import jit, tl


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


@jit
def lrn_max_pool2d_kernel(
    x_ptr, y_ptr, rows, H, W, C, P, Q, x_stride, y_stride, scale, k,
    SIZE: tl.constexpr, BETA: tl.constexpr,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    INT64: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (row < rows)[:, None] & (c < C)[None, :]
    q = row % Q
    p = row // Q % P
    n = row // Q // P
    if INT64:
        n = n.to(tl.int64)
        row = row.to(tl.int64)
    best = tl.full((BLOCK_P, BLOCK_C), float("-inf"), tl.float32)
    for r in range(KERNEL_H):
        for s in range(KERNEL_W):
            h = p * STRIDE_H - PAD_H + r * DILATION_H
            w = q * STRIDE_W - PAD_W + s * DILATION_W
            inside = mask & ((h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None]
            x_row = x_ptr + (((n * H + h) * W + w) * x_stride)[:, None]
            y = normalise(x_row, c[None, :], inside, C, scale, k, SIZE, BETA)
            best = tl.where(inside & ((y > best) | (y != y)), y, best)
    tl.store(y_ptr + row[:, None] * y_stride + c[None, :], best.to(y_ptr.dtype.element_ty), mask=mask)


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


def lrn_max_pool2d(p: LrnProblem, o: Pool2dProblem) -> common.Launch:
    """max_pool2d(lrn(x)) in one pass; `o` is the pool's problem, with lrn's output as input. Called with (x, y)."""
    tile = common.RowTile.of(p.C, elements=512)
    rows = o.N * o.P * o.Q
    return common.Launch(
        lrn_max_pool2d_kernel,
        [p.dtype] * 2,
        {
            "rows": rows,
            "H": o.H,
            "W": o.W,
            "C": p.C,
            "P": o.P,
            "Q": o.Q,
            "x_stride": p.x_stride,
            "y_stride": output_stride(o),
            "scale": float(p.alpha) / p.size,
            "k": float(p.k),
        },
        {
            "SIZE": p.size,
            "BETA": float(p.beta),
            "KERNEL_H": o.kernel_size[0],
            "KERNEL_W": o.kernel_size[1],
            "STRIDE_H": o.stride[0],
            "STRIDE_W": o.stride[1],
            "PAD_H": o.padding[0],
            "PAD_W": o.padding[1],
            "DILATION_H": o.dilation[0],
            "DILATION_W": o.dilation[1],
            "INT64": common.needs_int64(o.N * o.H * o.W * p.x_stride, rows * output_stride(o)),
            "BLOCK_P": tile.pixels,
            "BLOCK_C": tile.channels,
        },
        tile.grid(rows, p.C),
    )
