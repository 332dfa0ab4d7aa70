"""The pools in PyTorch operators."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastcnn.backends import reference
from fastcnn.ops.pool.contract import AdaptiveAvgPool2dProblem, Pool2dProblem


def max_pool2d(input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Tensor:
    """The largest element of each window; NaN wins, padding never does."""
    return F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: Any,
) -> Tensor:
    """The sum of each window over its divisor."""
    return F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """The mean of each of output_size windows that cover the image."""
    return F.adaptive_avg_pool2d(input, output_size)


def _max_params(p: Pool2dProblem) -> tuple[Any, ...]:
    return p.kernel_size, p.stride, p.padding, p.dilation, p.ceil_mode


def _avg_params(p: Pool2dProblem) -> tuple[Any, ...]:
    return p.kernel_size, p.stride, p.padding, p.ceil_mode, p.count_include_pad, p.divisor_override


def _adaptive_params(p: AdaptiveAvgPool2dProblem) -> tuple[Any, ...]:
    return ((p.P, p.Q),)


MAX_CANDIDATES = (reference.candidate("max_pool2d", max_pool2d, _max_params),)
AVG_CANDIDATES = (reference.candidate("avg_pool2d", avg_pool2d, _avg_params),)
ADAPTIVE_CANDIDATES = (reference.candidate("adaptive_avg_pool2d", adaptive_avg_pool2d, _adaptive_params),)
