"""The operators of an optimised graph: fastcnn's where they apply, PyTorch's where a shape or dtype rules them out.

Passes rewrite a network into calls of these functions, whose scalar arguments are keywords in one normal form.
Whether two tensors added in the network broadcast, or a flattened tensor was an image, is known only when it
runs, so each function decides then; the result is the network's own in every case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastcnn import functional, ops
from fastcnn.core import activations

Pair = tuple[int, int]


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
    if residual is not None and not residual_fits(residual, input, weight, stride, padding, dilation):
        y = functional.conv2d(input, weight, bias, stride, padding, dilation, groups)
        return activate(y + residual, activation=activation)
    return functional.conv2d(
        input, weight, bias, stride, padding, dilation, groups, activation=activation, residual=residual
    )


def residual_fits(
    residual: Any, input: Tensor, weight: Tensor, stride: Pair, padding: Sequence[int], dilation: Pair
) -> bool:
    """Whether the residual has the convolution's output shape and dtype, so that nothing is broadcast."""
    if not isinstance(residual, Tensor) or residual.dim() != 4 or input.dim() != 4 or residual.dtype != input.dtype:
        return False
    (N, _, H, W), (K, _, R, S) = input.shape, weight.shape
    P = (H + padding[0] + padding[1] - dilation[0] * (R - 1) - 1) // stride[0] + 1
    Q = (W + padding[2] + padding[3] - dilation[1] * (S - 1) - 1) // stride[1] + 1
    return tuple(residual.shape) == (N, K, P, Q)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None, *, activation: str | None = None) -> Tensor:
    """act(input @ weight.T + bias)."""
    return functional.linear(input, weight, bias, activation=activation)


def affine(input: Tensor, scale: Tensor, shift: Tensor, *, activation: str | None = None) -> Tensor:
    """act(input * scale + shift), a scale and a shift a channel: a batch normalisation that no layer took in."""
    if input.dim() == 4:
        return functional.subsample2d(input, scale, shift, 1, activation=activation)
    wide = (1, -1) + (1,) * (input.dim() - 2)
    return activate(input * scale.view(wide) + shift.view(wide), activation=activation)


def activate(input: Tensor, *, activation: str | None) -> Tensor:
    """act(input)."""
    return activations.apply(activation, input)


def add(input: Any, other: Any, *, activation: str | None = None) -> Any:
    """act(input + other), broadcasting as PyTorch does."""
    tensors = isinstance(input, Tensor) and isinstance(other, Tensor)
    if activation == "relu" and tensors and input.shape == other.shape and input.dtype == other.dtype:
        return functional.add_relu(input, other)
    total = input + other
    return total if activation is None else activate(total, activation=activation)


def multiply(input: Any, other: Any) -> Any:
    """input * other, broadcasting as PyTorch does."""
    return input * other


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


def image_mean(input: Tensor, *, dim: Pair, keepdim: bool) -> Tensor:
    """input.mean(dim), the last two of four dimensions: global average pooling where the input is (N, C, H, W)."""
    if input.dim() != 4:
        return input.mean(dim, keepdim=keepdim)
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
    """The tensors side by side along dimension 1."""
    if all(t.dim() == 4 and t.dtype == tensors[0].dtype for t in tensors):
        return functional.concat(tensors)
    return torch.cat(tuple(tensors), 1)


def part(input: Tensor, *, method: str, size: Any, index: int) -> Tensor:
    """One part of the input chunked or split along dimension 1."""
    return getattr(input, method)(size, 1)[index]


def flatten(input: Tensor) -> Tensor:
    """input.flatten(1): rows in (C, H, W) order."""
    return input.flatten(1)


def subsample2d(
    input: Tensor, coefficient: Tensor, bias: Tensor, *, kernel_size: int, activation: str | None
) -> Tensor:
    """LeNet-5's trainable subsampling."""
    return functional.subsample2d(input, coefficient, bias, kernel_size, activation=activation)


def rbf(input: Tensor, centers: Tensor) -> Tensor:
    """Squared Euclidean distances."""
    return functional.rbf(input, centers)
