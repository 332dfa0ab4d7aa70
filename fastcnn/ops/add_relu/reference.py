"""add_relu in PyTorch operators."""

from __future__ import annotations

import torch
from torch import Tensor

from fastcnn.backends import reference
from fastcnn.core.candidate import Candidate
from fastcnn.ops.add_relu.contract import AddReluProblem


def add_relu(input: Tensor, other: Tensor) -> Tensor:
    """max(input + other, 0)"""
    return torch.relu(input + other)


CANDIDATES: tuple[Candidate[AddReluProblem], ...] = (reference.candidate("add_relu", add_relu, lambda problem: ()),)
