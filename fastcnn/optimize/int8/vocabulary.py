"""The operators on bytes as a network's nodes call them, and their weights as constants of the network.

Images of bytes are (N, C, H, W); rows are images of one pixel. A filter is one constant: the weights, biases and
multipliers that ops/int8 speaks of, computed from the layer's own and again whenever those change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastcnn.ops.int8 import reference

quantize, dequantize = reference.quantize, reference.dequantize
add, table = reference.add, reference.table
max_pool2d, avg_pool2d = reference.max_pool2d, reference.avg_pool2d

Filter = tuple[Tensor, Tensor, Tensor]


def conv2d(input: Tensor, filter: Filter, residual: Tensor | None = None, **options: Any) -> Tensor:
    """See fastcnn.ops.int8.reference.conv2d."""
    return reference.conv2d(input, *filter, residual, **options)


def filter_of(weight: Tensor, bias: Tensor | None, *, x_scale: float, x_zero: int, y_scale: float) -> Filter:
    """weight as int8, a scale a channel: max |weight| / 127; bias and multiplier in the units of the sums."""
    w = weight.to(torch.float64)
    b = w.new_zeros(w.shape[0]) if bias is None else bias.to(torch.float64)
    # A bias far above what the weights add up to needs a coarser unit, or it would not fit into its integer.
    scale = torch.maximum(w.abs().amax((1, 2, 3)) / 127, b.abs() / (x_scale * 2.0**24))
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    integers = (w / scale.view(-1, 1, 1, 1)).round()
    biases = (b / (x_scale * scale)).round() - x_zero * integers.sum((1, 2, 3))
    # Sums reach 255 * 127 a product; a multiplier this large has a single unit of them fill y's range.
    largest = 2.0**30 / (255 * 127 * w[0].numel() + 2.0**25)
    multiplier = (x_scale * scale / y_scale).clamp(max=largest)
    return integers.to(torch.int8), biases.to(torch.int32), multiplier.to(torch.float32)


def fake_weight(weight: Tensor) -> Tensor:
    """The weight as its int8 stands for it."""
    scale = weight.abs().flatten(1).amax(1).clamp(min=1e-30).view(-1, *[1] * (weight.dim() - 1)) / 127
    return (weight / scale).round() * scale


def as_filter(weight: Tensor, *, image: tuple[int, int, int]) -> Tensor:
    """A matrix that multiplies flattened (C, H, W) images as the weight of a convolution over all of such an image."""
    return weight.reshape(weight.shape[0], *image)
