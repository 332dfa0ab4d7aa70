"""LeNet-5's trainable subsampling: y = act(bias + coefficient * sum over each block), per map."""

from __future__ import annotations

from fastcnn.backends.triton import common
from fastcnn.backends.triton.backend import output_stride
from fastcnn.backends.triton.common import activate, jit, tl
from fastcnn.ops.subsample2d.contract import Subsample2dProblem


@jit
def subsample2d_kernel(
    x_ptr, coefficient_ptr, bias_ptr, y_ptr, rows, H, W, C, P, Q, x_stride, y_stride,
    KERNEL: tl.constexpr, ACTIVATION: tl.constexpr,
    INT64: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (row < rows)[:, None] & (c < C)[None, :]
    h = row // Q % P * KERNEL
    w = row % Q * KERNEL
    n = row // Q // P
    if INT64:
        n = n.to(tl.int64)
        row = row.to(tl.int64)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for r in range(KERNEL):
        for s in range(KERNEL):
            pixel = (n * H + h + r) * W + w + s
            x = tl.load(x_ptr + (pixel * x_stride)[:, None] + c[None, :], mask=mask, other=0.0)
            total += x.to(tl.float32)
    coefficient = tl.load(coefficient_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    y = activate(bias[None, :] + coefficient[None, :] * total, ACTIVATION)
    tl.store(y_ptr + row[:, None] * y_stride + c[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


def subsample2d(p: Subsample2dProblem) -> common.Launch:
    """Called with (x, coefficient, bias, y)."""
    tile = common.RowTile.of(p.C)
    rows = p.N * p.P * p.Q
    return common.Launch(
        subsample2d_kernel,
        [p.dtype] * 4,
        {
            "rows": rows,
            "H": p.H,
            "W": p.W,
            "C": p.C,
            "P": p.P,
            "Q": p.Q,
            "x_stride": p.x_stride,
            "y_stride": output_stride(p),
        },
        {
            "KERNEL": p.kernel_size,
            "ACTIVATION": p.activation,
            "INT64": common.needs_int64(p.N * p.H * p.W * p.x_stride, rows * output_stride(p)),
            "BLOCK_P": tile.pixels,
            "BLOCK_C": tile.channels,
        },
        tile.grid(rows, p.C),
    )
