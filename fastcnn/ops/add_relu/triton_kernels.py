"""y = max(a + b, 0), NaN kept. One pass over memory: 16-byte loads of both inputs, one store."""

from __future__ import annotations

from fastcnn.backends.triton import common
from fastcnn.backends.triton.backend import output_stride
from fastcnn.backends.triton.common import jit, relu, tl
from fastcnn.ops.add_relu.contract import AddReluProblem


@jit
def add_relu_kernel(
    a_ptr, b_ptr, y_ptr, pixels, C, a_stride, b_stride, y_stride,
    INT64: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (row < pixels)[:, None] & (c < C)[None, :]
    if INT64:
        row = row.to(tl.int64)
    a = tl.load(a_ptr + row[:, None] * a_stride + c[None, :], mask=mask).to(tl.float32)
    b = tl.load(b_ptr + row[:, None] * b_stride + c[None, :], mask=mask).to(tl.float32)
    tl.store(y_ptr + row[:, None] * y_stride + c[None, :], relu(a + b).to(y_ptr.dtype.element_ty), mask=mask)


@jit
def add_relu_flat_kernel(a_ptr, b_ptr, y_ptr, size, INT64: tl.constexpr, BLOCK: tl.constexpr):
    """Tensors that are one run of memory each, in whatever order: channels do not matter."""
    block = tl.program_id(0)
    if INT64:
        block = block.to(tl.int64)
    i = block * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i, mask=i < size).to(tl.float32)
    b = tl.load(b_ptr + i, mask=i < size).to(tl.float32)
    tl.store(y_ptr + i, relu(a + b).to(y_ptr.dtype.element_ty), mask=i < size)


def add_relu(p: AddReluProblem) -> common.Launch:
    """Called with (a, b, y)."""
    if p.flat:
        return common.Launch(
            add_relu_flat_kernel,
            [p.dtype] * 3,
            {"size": p.numel},
            {"INT64": common.needs_int64(p.numel), "BLOCK": 1024},
            (common.ceil_div(p.numel, 1024),),
        )
    N, C, H, W = p.output_shape
    tile = common.RowTile.of(C)
    return common.Launch(
        add_relu_kernel,
        [p.dtype] * 3,
        {"pixels": N * H * W, "C": C, "a_stride": p.a_stride, "b_stride": p.b_stride, "y_stride": output_stride(p)},
        {
            "INT64": common.needs_int64(N * H * W * max(p.a_stride, p.b_stride, output_stride(p))),
            "BLOCK_P": tile.pixels,
            "BLOCK_C": tile.channels,
        },
        tile.grid(N * H * W, C),
    )
