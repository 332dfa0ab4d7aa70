"""The candidate that takes everything: an operator's definition in PyTorch, last in every list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastcnn.core.candidate import Candidate, P, Runner
from fastcnn.core.operator import call_definition


def candidate(
    op: str,
    definition: Callable[..., Tensor],
    params: Callable[[P], tuple[Any, ...]],
    *,
    channels_last: bool = True,
) -> Candidate[P]:
    """The reference candidate of `op`; `params` reads the definition's scalar arguments from a problem."""

    def prepare(problem: P) -> Runner:
        scalars = params(problem)
        reformat = channels_last and len(problem.output_shape) == 4 and not getattr(problem, "flat", False)

        def run(*tensors_and_out: Tensor | None) -> Tensor:
            *tensors, out = tensors_and_out
            result = call_definition(op, definition, tensors, scalars)
            if out is not None:
                return out.copy_(result)
            return result.contiguous(memory_format=torch.channels_last) if reformat else result

        return run

    return Candidate("reference", "pytorch", lambda problem: None, prepare, dtypes=("every dtype of PyTorch",))
