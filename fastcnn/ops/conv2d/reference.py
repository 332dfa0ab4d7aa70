"""conv2d in PyTorch operators."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastcnn.backends import reference
from fastcnn.core import activations
from fastcnn.ops.conv2d.contract import Conv2dProblem


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None,
    stride: Any, padding: Any, dilation: Any, groups: int, activation: str | None,
) -> Tensor:  # fmt: skip
    """act(conv2d(input, weight) + bias + residual); padding is (top, bottom, left, right)."""
    top, bottom, left, right = padding
    if (top, left) != (bottom, right):
        input, top, left = F.pad(input, (left, right, top, bottom)), 0, 0
    y = F.conv2d(input, weight, bias, stride, (top, left), dilation, groups)
    if residual is not None:
        y = y + residual
    return activations.apply(activation, y)


def _params(problem: Conv2dProblem) -> tuple[Any, ...]:
    return problem.stride, problem.padding, problem.dilation, problem.groups, problem.activation


CANDIDATES = (reference.candidate("conv2d", conv2d, _params),)
