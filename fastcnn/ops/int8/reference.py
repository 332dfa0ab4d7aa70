"""The operators on bytes as they are defined, in PyTorch: every kernel gives the same bits.

round() is to the nearest integer, ties to even. Sums of products are exact; float() rounds them to float32, in which
each multiplication and addition is rounded once. Images are (N, C, H, W), rows (N, C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


def to_bytes(f: Tensor, zero: int, low: int = 0, high: int = 255) -> Tensor:
    """clamp(round(f) + zero, low, high); NaN counts as the lowest."""
    rounded = torch.nan_to_num(f, nan=-512.0).clamp(-512, 512).round()
    return (rounded + zero).clamp(low, high).to(torch.uint8)


def quantize(x: Tensor, inverse_scale: float, zero: int) -> Tensor:
    """clamp(round(x * inverse_scale) + zero, 0, 255)"""
    return to_bytes(x.to(torch.float32) * _float32(inverse_scale), zero)


def dequantize(x: Tensor, scale: float, zero: int) -> Tensor:
    """float(x - zero) * scale"""
    return (x.to(torch.int32) - zero).to(torch.float32) * _float32(scale)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    residual: Tensor | None = None,
    *,
    stride: Pair,
    padding: tuple[int, int, int, int],
    dilation: Pair,
    groups: int,
    x_zero: int,
    y_zero: int = 0,
    low: int = 0,
    high: int = 255,
    residual_zero: int = 0,
    residual_scale: float = 0.0,
    float_output: bool = False,
    relu: bool = False,
) -> Tensor:
    """The formula of csrc/ops/conv2d_int8/conv2d_int8.h; padding is (top, bottom, left, right).

    weight: int8 (K, C / groups, R, S); bias: int32 (K,), with x_zero times the sums of the weights taken off;
    multiplier: float32 (K,).
    """
    top, bottom, left, right = padding
    padded = F.pad(x.to(torch.float64), (left, right, top, bottom), value=x_zero)
    sums = F.conv2d(padded, weight.to(torch.float64), bias.to(torch.float64), stride, 0, dilation, groups)
    f = sums.to(torch.int64).to(torch.float32) * multiplier.view(-1, 1, 1)
    if float_output:
        return torch.relu(f) if relu else f
    if residual is not None:
        f = f + dequantize(residual, residual_scale, residual_zero)
    return to_bytes(f, y_zero, low, high)


def table(x: Tensor, values: Tensor) -> Tensor:
    """values[x], of 256 bytes"""
    return values[x.to(torch.int64)]


def add(
    a: Tensor, b: Tensor, *, a_scale: float, a_zero: int, b_scale: float, b_zero: int, y_zero: int, low: int, high: int
) -> Tensor:
    """clamp(round(float(a - a_zero) * a_scale + float(b - b_zero) * b_scale) + y_zero, low, high)"""
    return to_bytes(dequantize(a, a_scale, a_zero) + dequantize(b, b_scale, b_zero), y_zero, low, high)


def max_pool2d(x: Tensor, *, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool) -> Tensor:
    """The largest byte of each window."""
    y = F.max_pool2d(x.to(torch.float32), kernel_size, stride, padding, dilation, ceil_mode)
    return y.to(torch.uint8)


def avg_pool2d(
    x: Tensor,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    scale: float,
    x_zero: int,
    y_zero: int,
) -> Tensor:
    """clamp(round(float(sum over the window of (x - x_zero)) * (scale / float(count))) + y_zero, 0, 255)"""
    window = kernel_size, stride, padding, ceil_mode
    sums = F.avg_pool2d(x.to(torch.float64) - x_zero, *window, divisor_override=1).round()
    if divisor_override:
        count = torch.full_like(sums, divisor_override)
    else:
        ones = torch.ones_like(x, dtype=torch.float64)
        inside = F.avg_pool2d(ones, *window, divisor_override=1)
        count = (inside / F.avg_pool2d(ones, *window, count_include_pad=count_include_pad)).round()
    f = sums.to(torch.float32) * (_float32(scale) / count.to(torch.float32))
    return to_bytes(f, y_zero)


def _float32(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)
