"""Max, average and adaptive average pooling over channels_last rows: 16-byte loads along the channels."""

from __future__ import annotations

from fastcnn.backends.triton import common
from fastcnn.backends.triton.backend import output_stride
from fastcnn.backends.triton.common import jit, tl
from fastcnn.ops.pool.contract import AdaptiveAvgPool2dProblem, Pool2dProblem


@jit
def pool_tap(acc, x_ptr, n, h, w, c, H, W, x_stride, mask, MAX: tl.constexpr):
    """acc with one position of every window taken in: NaN wins over all, padding over nothing."""
    inside = mask & ((h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None]
    offset = (((n * H + h) * W + w) * x_stride)[:, None] + c[None, :]
    if MAX:
        x = tl.load(x_ptr + offset, mask=inside, other=float("-inf")).to(tl.float32)
        acc = tl.where((x > acc) | (x != x), x, acc)
    else:
        acc += tl.load(x_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    return acc


@jit
def pool2d_kernel(
    x_ptr, y_ptr, rows, H, W, C, P, Q, x_stride, y_stride,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    MAX: tl.constexpr, COUNT_INCLUDE_PAD: tl.constexpr, DIVISOR: tl.constexpr,
    INT64: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (row < rows)[:, None] & (c < C)[None, :]
    h = row // Q % P * STRIDE_H - PAD_H
    w = row % Q * STRIDE_W - PAD_W
    n = row // Q // P
    if INT64:
        n = n.to(tl.int64)
        row = row.to(tl.int64)
    acc = tl.full((BLOCK_P, BLOCK_C), float("-inf") if MAX else 0.0, tl.float32)
    if KERNEL_H * KERNEL_W <= 9:  # unrolled: all loads in flight at once
        for r in tl.static_range(KERNEL_H):
            for s in tl.static_range(KERNEL_W):
                acc = pool_tap(acc, x_ptr, n, h + r * DILATION_H, w + s * DILATION_W, c, H, W, x_stride, mask, MAX)
    else:
        for r in range(KERNEL_H):
            for s in range(KERNEL_W):
                acc = pool_tap(acc, x_ptr, n, h + r * DILATION_H, w + s * DILATION_W, c, H, W, x_stride, mask, MAX)
    if not MAX:
        if DIVISOR != 0:
            acc /= DIVISOR
        elif COUNT_INCLUDE_PAD:
            # A window may run past the padding too (ceil_mode): that part does not count.
            high = tl.minimum(h + KERNEL_H, H + PAD_H) - h
            wide = tl.minimum(w + KERNEL_W, W + PAD_W) - w
            acc /= (high * wide).to(tl.float32)[:, None]
        else:
            high = tl.minimum(h + KERNEL_H, H) - tl.maximum(h, 0)
            wide = tl.minimum(w + KERNEL_W, W) - tl.maximum(w, 0)
            acc /= (high * wide).to(tl.float32)[:, None]
    tl.store(y_ptr + row[:, None] * y_stride + c[None, :], acc.to(y_ptr.dtype.element_ty), mask=mask)


@jit
def adaptive_avg_pool2d_kernel(
    x_ptr, y_ptr, H, W, C, P, Q, x_stride, y_stride,
    INT64: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    q = row % Q
    p = row // Q % P
    n = row // Q // P
    h0 = p * H // P
    w0 = q * W // Q
    high = ((p + 1) * H + P - 1) // P - h0
    wide = ((q + 1) * W + Q - 1) // Q - w0
    if INT64:
        n = n.to(tl.int64)
        row = row.to(tl.int64)
    acc = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for start in range(0, high * wide, BLOCK_P):
        i = start + tl.arange(0, BLOCK_P)
        pixel = (n * H + h0 + i // wide) * W + w0 + i % wide
        mask = (i < high * wide)[:, None] & (c < C)[None, :]
        acc += tl.load(x_ptr + (pixel * x_stride)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(acc, axis=0) / (high * wide).to(tl.float32)
    tl.store(y_ptr + row * y_stride + c, mean.to(y_ptr.dtype.element_ty), mask=c < C)


def window_constants(p: Pool2dProblem) -> dict[str, int]:
    """The windows as kernels take them."""
    return {
        "KERNEL_H": p.kernel_size[0],
        "KERNEL_W": p.kernel_size[1],
        "STRIDE_H": p.stride[0],
        "STRIDE_W": p.stride[1],
        "PAD_H": p.padding[0],
        "PAD_W": p.padding[1],
        "DILATION_H": p.dilation[0],
        "DILATION_W": p.dilation[1],
    }


def pool2d(p: Pool2dProblem) -> common.Launch:
    """Called with (x, y)."""
    tile = common.RowTile.of(p.C)
    rows = p.N * p.P * p.Q
    return common.Launch(
        pool2d_kernel,
        [p.dtype] * 2,
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
            **window_constants(p),
            "MAX": p.mode == "max",
            "COUNT_INCLUDE_PAD": p.count_include_pad,
            "DIVISOR": p.divisor_override or 0,
            "INT64": common.needs_int64(p.N * p.H * p.W * p.x_stride, rows * output_stride(p)),
            "BLOCK_P": tile.pixels,
            "BLOCK_C": tile.channels,
        },
        tile.grid(rows, p.C),
    )


def adaptive_avg_pool2d(p: AdaptiveAvgPool2dProblem) -> common.Launch:
    """Called with (x, y). One program averages one window over a block of channels."""
    window = common.ceil_div(p.H, p.P) * common.ceil_div(p.W, p.Q)
    channels = min(64, common.next_power_of_2(p.C))
    return common.Launch(
        adaptive_avg_pool2d_kernel,
        [p.dtype] * 2,
        {"H": p.H, "W": p.W, "C": p.C, "P": p.P, "Q": p.Q, "x_stride": p.x_stride, "y_stride": output_stride(p)},
        {
            "INT64": common.needs_int64(p.N * p.H * p.W * p.x_stride, p.N * p.P * p.Q * output_stride(p)),
            "BLOCK_P": min(16, common.next_power_of_2(window)),
            "BLOCK_C": channels,
        },
        (p.N * p.P * p.Q, common.ceil_div(p.C, channels)),
    )
