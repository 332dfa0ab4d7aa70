"""y[pixel, c] = x[pixel, c]: one input of a concatenation, copied into its channel slice."""

from __future__ import annotations

import torch

from fastcnn.backends.triton import common
from fastcnn.backends.triton.backend import output_stride
from fastcnn.backends.triton.common import jit, tl
from fastcnn.ops.concat.contract import ConcatProblem

# A copy needs no arithmetic: elements travel as integers of their size, so every dtype has the same kernels.
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@jit
def copy_slice_kernel(
    x_ptr, y_ptr, pixels, C, x_stride, y_stride,
    INT64: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (row < pixels)[:, None] & (c < C)[None, :]
    if INT64:
        row = row.to(tl.int64)
    x = tl.load(x_ptr + row[:, None] * x_stride + c[None, :], mask=mask)
    tl.store(y_ptr + row[:, None] * y_stride + c[None, :], x, mask=mask)


def copy_slice(p: ConcatProblem, C: int, x_stride: int) -> common.Launch:
    """One input of C channels. Called with (x, its slice of y), both viewed as integers of the element's size."""
    pixels = p.N * p.H * p.W
    tile = common.RowTile.of(C)
    return common.Launch(
        copy_slice_kernel,
        [INTEGERS[p.dtype.itemsize]] * 2,
        {"pixels": pixels, "C": C, "x_stride": x_stride, "y_stride": output_stride(p)},
        {
            "INT64": common.needs_int64(pixels * max(x_stride, output_stride(p))),
            "BLOCK_P": tile.pixels,
            "BLOCK_C": tile.channels,
        },
        tile.grid(pixels, C),
    )
