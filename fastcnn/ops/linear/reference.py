"""linear in PyTorch operators."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastcnn.backends import reference
from fastcnn.core import activations
from fastcnn.core.candidate import Candidate
from fastcnn.ops.linear.contract import LinearProblem


def linear(input: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """act(input @ weight.T + bias)"""
    return activations.apply(activation, F.linear(input, weight, bias))


CANDIDATES: tuple[Candidate[LinearProblem], ...] = (
    reference.candidate("linear", linear, lambda problem: (problem.activation,), channels_last=False),
)
