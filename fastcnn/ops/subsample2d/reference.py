"""subsample2d in PyTorch operators."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastcnn.backends import reference
from fastcnn.core import activations
from fastcnn.ops.subsample2d.contract import Subsample2dProblem
from fastcnn.ops.subsample2d.gradient import block_sum


def subsample2d(input: Tensor, coefficient: Tensor, bias: Tensor, kernel_size: int, activation: str | None) -> Tensor:
    """act(bias + coefficient * sum of each kernel_size x kernel_size block)"""
    sums = block_sum(input, kernel_size)
    return activations.apply(activation, sums * coefficient[:, None, None] + bias[:, None, None])


def _params(problem: Subsample2dProblem) -> tuple[Any, ...]:
    return problem.kernel_size, problem.activation


CANDIDATES = (reference.candidate("subsample2d", subsample2d, _params),)
