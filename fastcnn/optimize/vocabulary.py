"""The operators that the passes know, as functions: what a plan cannot hold is run by calling them.

Their scalar arguments are keywords in one normal form; images are (N, C, H, W), rows (N, features).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastcnn import functional, ops
from fastcnn.core import activations, native

Pair = tuple[int, int]

# Of what kernels compute in.
KERNEL_DTYPES = tuple(native.DTYPES)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    *,
    stride: Pair,
    padding: tuple[int, int, int, int],
    dilation: Pair,
    groups: int,
    activation: str | None = None,
) -> Tensor:
    """act(conv2d(input, weight) + bias + residual); padding is (top, bottom, left, right)."""
    return functional.conv2d(
        input, weight, bias, stride, padding, dilation, groups, activation=activation, residual=residual
    )


def linear(input: Tensor, weight: Tensor, bias: Tensor | None, *, activation: str | None = None) -> Tensor:
    """act(input @ weight.T + bias)."""
    return functional.linear(input, weight, bias, activation=activation)


def affine(input: Tensor, scale: Tensor, shift: Tensor, *, activation: str | None = None) -> Tensor:
    """act(input * scale + shift), a scale and a shift a channel."""
    scale, shift = scale.to(input.device, input.dtype), shift.to(input.device, input.dtype)
    if input.dim() == 4:
        return functional.subsample2d(input, scale, shift, 1, activation=activation)
    return activate(input * scale + shift, activation=activation)


def activate(input: Tensor, *, activation: str | None) -> Tensor:
    """act(input)."""
    return activations.apply(activation, input)


def add(input: Tensor, other: Tensor, *, activation: str | None = None) -> Tensor:
    """act(input + other), of one shape and dtype."""
    if activation == "relu":
        return functional.add_relu(input, other)
    total = input + other
    return total if activation is None else activate(total, activation=activation)


def multiply(input: Tensor, gate: Tensor) -> Tensor:
    """input * gate, a number for each channel of each image: gate is (N, C, 1, 1)."""
    return input * gate


def max_pool2d(
    input: Tensor, *, kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair, ceil_mode: bool
) -> Tensor:
    """The maximum over each window."""
    return functional.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool2d(
    input: Tensor,
    *,
    kernel_size: Pair,
    stride: Pair | None,
    padding: Pair,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """The mean over each window."""
    return functional.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def adaptive_avg_pool2d(input: Tensor, *, output_size: Any) -> Tensor:
    """The means over output_size windows that cover the image."""
    return functional.adaptive_avg_pool2d(input, output_size)


def image_mean(input: Tensor, *, keepdim: bool) -> Tensor:
    """input.mean((2, 3)): global average pooling."""
    mean = functional.adaptive_avg_pool2d(input, 1)
    return mean if keepdim else mean.flatten(1)


def local_response_norm(input: Tensor, *, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Local response normalisation across channels."""
    return functional.local_response_norm(input, size, alpha, beta, k)


def lrn_max_pool2d(
    input: Tensor, *, size: int, alpha: float, beta: float, k: float,
    kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair, ceil_mode: bool,
) -> Tensor:  # fmt: skip
    """The maximum over each window of the normalised input."""
    lrn, pool = (size, alpha, beta, k), (kernel_size, stride, padding, dilation, ceil_mode)
    kernel = ops.lrn_max_pool2d.runner((input,), (lrn, pool)) if input.dim() == 4 else None
    if kernel is not None:
        return kernel(input, None)
    return functional.max_pool2d(functional.local_response_norm(input, *lrn), *pool)


def conv2d_max_pool2d(
    input: Tensor, weight: Tensor, bias: Tensor | None, *,
    conv_stride: Pair, conv_padding: tuple[int, int, int, int], conv_dilation: Pair, groups: int,
    activation: str | None,
    kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair, ceil_mode: bool,
) -> Tensor:  # fmt: skip
    """The maximum over each window of act(conv2d(input, weight) + bias); conv_padding is (top, bottom, left, right)."""
    tensors = (input, weight, bias, None)
    conv = (conv_stride, conv_padding, conv_dilation, groups, activation)
    pool = (kernel_size, stride, padding, dilation, ceil_mode)
    kernel = ops.conv2d_max_pool2d.runner(tensors, (conv, pool)) if input.dim() == 4 else None
    if kernel is not None:
        return kernel(*tensors, None)
    y = functional.conv2d(input, weight, bias, conv_stride, conv_padding, conv_dilation, groups, activation=activation)
    return functional.max_pool2d(y, *pool)


def concat(tensors: Sequence[Tensor]) -> Tensor:
    """The images side by side along dimension 1."""
    return functional.concat(tensors)


def channels(input: Tensor, *, start: int, stop: int) -> Tensor:
    """input[:, start:stop]."""
    return input[:, start:stop]


def flatten(input: Tensor) -> Tensor:
    """input.flatten(1): rows in (C, H, W) order."""
    return input.flatten(1)


def image(input: Tensor) -> Tensor:
    """input[:, :, None, None]: rows as images of one pixel."""
    return input[:, :, None, None]


def laid_out(input: Tensor, strides: Sequence[int]) -> Tensor:
    """The input with these strides, copied if it has others."""
    if input.stride() == tuple(strides):
        return input
    return torch.empty_strided(input.shape, strides, dtype=input.dtype, device=input.device).copy_(input)


def subsample2d(
    input: Tensor, coefficient: Tensor, bias: Tensor, *, kernel_size: int, activation: str | None
) -> Tensor:
    """LeNet-5's trainable subsampling."""
    return functional.subsample2d(input, coefficient, bias, kernel_size, activation=activation)


def rbf(input: Tensor, centers: Tensor) -> Tensor:
    """Squared Euclidean distances."""
    return functional.rbf(input, centers)
