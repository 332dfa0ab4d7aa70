"""local_response_norm in PyTorch operators."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcnn.backends import reference
from fastcnn.ops.lrn.contract import NAME, LrnProblem


def local_response_norm(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """input * (k + alpha/size * sum over the channel window of input^2)^-beta"""
    if input.dtype in (torch.float16, torch.bfloat16):
        # In 16 bits PyTorch rounds after each of eight steps, and on a CPU it has no float16 at all.
        return F.local_response_norm(input.float(), size, alpha, beta, k).to(input.dtype)
    return F.local_response_norm(input, size, alpha, beta, k)


def _params(problem: LrnProblem) -> tuple[Any, ...]:
    return problem.size, problem.alpha, problem.beta, problem.k


CANDIDATES = (reference.candidate(NAME, local_response_norm, _params),)
