"""Convolution of few channels + bias + activation + max-pool in Triton.

A program computes the convolution on a square of pixels, as conv2d_kernel does, and pools what lies in whole windows.
Pixels under two tiles' windows are computed twice: 16 x 16 pixels hold 7 x 7 windows of 3x3 / 2. The windows' pixels
are rows of the product; tl.gather brings them together, first those of a window's row, then its rows: six passes
through shared memory for a 3x3 window, where nine would take a pixel at a time.
"""

from __future__ import annotations

import dataclasses

import torch

from fastcnn.backends.triton import common
from fastcnn.backends.triton.backend import output_stride
from fastcnn.backends.triton.common import Launch, activate, dot, jit, next_power_of_2, tl
from fastcnn.backends.triton.target import ceil_div
from fastcnn.ops.conv2d.triton_kernels import load_taps
from fastcnn.ops.conv2d.triton_launch import pack_weight, precision, tap_constants, tap_stride, wide_taps
from fastcnn.ops.conv2d_max_pool2d.contract import Conv2dMaxPool2dProblem
from fastcnn.ops.pool.triton_kernels import window_constants


@jit
def maximum_of(source, index, step, COUNT: tl.constexpr):
    """The maximum in float32 over i < COUNT of the rows index + i * step of source; NaN wins."""
    index = tl.broadcast_to(index[:, None], (index.shape[0], source.shape[1]))
    best = tl.gather(source, index, 0).to(tl.float32)
    for i in tl.static_range(1, COUNT):
        best = tl.maximum(
            best, tl.gather(source, index + i * step, 0).to(tl.float32), propagate_nan=tl.PropagateNan.ALL
        )
    return best


@jit
def any_inside(first, step, size, COUNT: tl.constexpr):
    """Whether one of first, first + step, ... lies in [0, size)."""
    inside = (first >= 0) & (first < size)
    for i in tl.static_range(1, COUNT):
        inside |= (first + i * step >= 0) & (first + i * step < size)
    return inside


@jit
def conv2d_max_pool2d_kernel(
    x_ptr, w_ptr, bias_ptr, y_ptr,
    H, W, C, K, P, Q, POOLED_P, POOLED_Q, x_stride, y_stride, w_tap_stride, tiles_p, tiles_q,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    POOL_KERNEL_H: tl.constexpr, POOL_KERNEL_W: tl.constexpr, POOL_STRIDE_H: tl.constexpr, POOL_STRIDE_W: tl.constexpr,
    POOL_PAD_H: tl.constexpr, POOL_PAD_W: tl.constexpr, POOL_DILATION_H: tl.constexpr, POOL_DILATION_W: tl.constexpr,
    ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, WIDE_TAPS: tl.constexpr, PRECISION: tl.constexpr,
    INT64: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (N * tiles_p * tiles_q * channel blocks,): ROWS x COLUMNS of the convolution, TILE_P x TILE_Q pooled.

    BLOCK_P and BLOCK_Q are the powers of 2 that hold a tile.
    """
    tiles_k = tl.cdiv(K, BLOCK_N)
    pid = tl.program_id(0)
    k = pid % tiles_k * BLOCK_N + tl.arange(0, BLOCK_N)
    pid = pid // tiles_k
    tile_q = pid % tiles_q * TILE_Q
    tile_p = pid // tiles_q % tiles_p * TILE_P
    n = pid // tiles_q // tiles_p
    k_row = k
    if INT64:
        n = n.to(tl.int64)
        k_row = k_row.to(tl.int64)

    m = tl.arange(0, ROWS * COLUMNS)
    p = tile_p * POOL_STRIDE_H - POOL_PAD_H + m // COLUMNS
    q = tile_q * POOL_STRIDE_W - POOL_PAD_W + m % COLUMNS
    valid = (p >= 0) & (p < P) & (q >= 0) & (q < Q)
    h0 = p * STRIDE_H - PAD_H
    w0 = q * STRIDE_W - PAD_W
    x_row = x_ptr + ((n * H + h0) * W + w0) * x_stride
    w_row = w_ptr + k_row * (R * S * w_tap_stride)
    lane = tl.arange(0, BLOCK_K)
    acc = tl.zeros((ROWS * COLUMNS, BLOCK_N), tl.float32)
    for r in range(R):
        for s in range(S):
            for c0 in range(0, C, BLOCK_K):
                a, b = load_taps(
                    x_row, w_row, h0, w0, valid, k < K, r, s, c0 + lane, H, W, C, x_stride,
                    (r * S + s) * w_tap_stride, DILATION_H, DILATION_W, WIDE_TAPS, True,
                )  # fmt: skip
                acc = dot(a, b, acc, PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias_ptr + k, mask=k < K, other=0.0).to(tl.float32)[None, :]
    # Rounding keeps order, and 16-bit sums take half the shared memory. What is padding wins over nothing.
    dtype: tl.constexpr = y_ptr.dtype.element_ty
    sums = tl.where(valid[:, None], acc, float("-inf")).to(dtype)

    # Windows past the tile's end wrap round to rows that are there: they are not stored.
    i = tl.arange(0, ROWS * BLOCK_Q)
    column = tl.minimum(i % BLOCK_Q, TILE_Q - 1) * POOL_STRIDE_W
    sums = maximum_of(sums, i // BLOCK_Q * COLUMNS + column, POOL_DILATION_W, POOL_KERNEL_W).to(dtype)
    i = tl.arange(0, BLOCK_P * BLOCK_Q)
    row = tl.minimum(i // BLOCK_Q, TILE_P - 1) * POOL_STRIDE_H
    best = maximum_of(sums, row * BLOCK_Q + i % BLOCK_Q, POOL_DILATION_H * BLOCK_Q, POOL_KERNEL_H)

    pooled_p = tile_p + i // BLOCK_Q
    pooled_q = tile_q + i % BLOCK_Q
    some = any_inside(pooled_p * POOL_STRIDE_H - POOL_PAD_H, POOL_DILATION_H, P, POOL_KERNEL_H)
    some &= any_inside(pooled_q * POOL_STRIDE_W - POOL_PAD_W, POOL_DILATION_W, Q, POOL_KERNEL_W)
    # The activations keep order too, and there are fewer windows than pixels. A window of padding alone has none.
    best = tl.where(some[:, None], activate(best, ACTIVATION), best)
    y_row = (n * POOLED_P + pooled_p) * POOLED_Q + pooled_q
    mask = (i // BLOCK_Q < TILE_P) & (i % BLOCK_Q < TILE_Q) & (pooled_p < POOLED_P) & (pooled_q < POOLED_Q)
    tl.store(
        y_ptr + (y_row * y_stride)[:, None] + k[None, :], best.to(dtype),
        mask=mask[:, None] & (k < K)[None, :],
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """A square of the convolution's pixels and output channels, and how it is run."""

    rows: int
    columns: int
    block_n: int
    num_warps: int

    def windows(self, problem: Conv2dMaxPool2dProblem) -> tuple[int, int]:
        """How many whole windows the square holds in height and width; at most 0 where not one."""
        pool = problem.second
        sizes = zip((self.rows, self.columns), pool.kernel_size, pool.dilation, pool.stride, strict=True)
        high, wide = ((size - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, dilation, stride in sizes)
        return high, wide


def config_of(problem: Conv2dMaxPool2dProblem, allow_tf32: bool) -> Config:
    strict = precision(problem.dtype, allow_tf32) == "tf32x3"
    block_n = min(next_power_of_2(problem.first.K), 32 if strict else 64)
    return Config(8 if strict else 16, 16, max(16, block_n), 8)


class Conv2dMaxPool2d:
    """conv2d_max_pool2d with everything but its tensors bound. Called with (x, packed weight, bias, y)."""

    def __init__(
        self, problem: Conv2dMaxPool2dProblem, *, allow_tf32: bool = True, config: Config | None = None
    ) -> None:
        p, pool = problem.first, problem.second
        self.wide = wide_taps(p)
        self.config = config = config or config_of(problem, allow_tf32)
        self.dtype = p.dtype
        wide = p.C if self.wide else 1  # a pixel of a wide tap is one element
        C = p.S * p.C if self.wide else p.C
        tile_p, tile_q = config.windows(problem)
        tiles_p, tiles_q = ceil_div(pool.P, tile_p), ceil_div(pool.Q, tile_q)
        y_stride = output_stride(problem)
        self.launch = Launch(
            conv2d_max_pool2d_kernel,
            [p.dtype] * 4,
            {
                "H": p.H,
                "W": p.W * wide,
                "C": C,
                "K": p.K,
                "P": p.P,
                "Q": p.Q,
                "POOLED_P": pool.P,
                "POOLED_Q": pool.Q,
                "x_stride": 1 if self.wide else p.x_stride,
                "y_stride": y_stride,
                "w_tap_stride": tap_stride(C, p.dtype),
                "tiles_p": tiles_p,
                "tiles_q": tiles_q,
            },
            {
                **tap_constants(p),
                **{f"POOL_{name}": value for name, value in window_constants(pool).items()},
                "ACTIVATION": p.activation,
                "HAS_BIAS": p.has_bias,
                "WIDE_TAPS": self.wide,
                "PRECISION": precision(p.dtype, allow_tf32),
                "INT64": common.needs_int64(p.N * p.H * p.W * p.x_stride, p.N * pool.P * pool.Q * y_stride),
                "ROWS": config.rows,
                "COLUMNS": config.columns,
                "TILE_P": tile_p,
                "TILE_Q": tile_q,
                "BLOCK_P": next_power_of_2(tile_p),
                "BLOCK_Q": next_power_of_2(tile_q),
                "BLOCK_N": config.block_n,
                "BLOCK_K": 64 // p.dtype.itemsize,
            },
            (p.N * tiles_p * tiles_q * ceil_div(p.K, config.block_n),),
            num_warps=config.num_warps,
            num_stages=3,
        )

    @property
    def pack_key(self) -> tuple[str, torch.dtype, bool]:
        return "triton", self.dtype, self.wide  # as conv2d packs it

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        return pack_weight(weight, self.dtype, self.wide)

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor) -> None:
        self.launch(x, weight, y if bias is None else bias, y)  # an absent bias is never read
