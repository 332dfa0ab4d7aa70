"""y = act(x * scale[n, c] + residual), in one pass over memory; a block's scales stay in the cache."""

from __future__ import annotations

from fastcnn.backends.triton import common
from fastcnn.backends.triton.backend import output_stride
from fastcnn.backends.triton.common import activate, jit, tl
from fastcnn.ops.scale_channels.contract import ScaleChannelsProblem


@jit
def scale_channels_kernel(
    x_ptr, scale_ptr, residual_ptr, y_ptr, rows, pixels, C, x_stride, residual_stride, y_stride,
    HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
    INT64: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (row < rows)[:, None] & (c < C)[None, :]
    n = row // pixels
    if INT64:
        row = row.to(tl.int64)
    y = tl.load(x_ptr + row[:, None] * x_stride + c[None, :], mask=mask).to(tl.float32)
    y *= tl.load(scale_ptr + n[:, None] * C + c[None, :], mask=mask).to(tl.float32)
    if HAS_RESIDUAL:
        y += tl.load(residual_ptr + row[:, None] * residual_stride + c[None, :], mask=mask).to(tl.float32)
    y = activate(y, ACTIVATION)
    tl.store(y_ptr + row[:, None] * y_stride + c[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


def scale_channels(p: ScaleChannelsProblem) -> common.Launch:
    """Called with (x, scale, residual, y); without a residual, any tensor stands in its place."""
    tile = common.RowTile.of(p.C)
    rows = p.N * p.pixels
    return common.Launch(
        scale_channels_kernel,
        [p.dtype] * 4,
        {
            "rows": rows,
            "pixels": p.pixels,
            "C": p.C,
            "x_stride": p.x_stride,
            "residual_stride": p.residual_stride,
            "y_stride": output_stride(p),
        },
        {
            "HAS_RESIDUAL": p.has_residual,
            "ACTIVATION": p.activation,
            "INT64": common.needs_int64(rows * max(p.x_stride, p.residual_stride, output_stride(p))),
            "BLOCK_P": tile.pixels,
            "BLOCK_C": tile.channels,
        },
        tile.grid(rows, p.C),
    )
