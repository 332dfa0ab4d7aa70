"""An operator under autograd in eager mode: an `autograd.Function`, a third of the cost of torch.library's operators.

Where something traces or transforms, the registered operator is called, which shows itself (core/operator.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastcnn.core.packing import changing


class Recorded(torch.autograd.Function):
    """Recorded.apply(*tensors, operator, runner, params): the operator by its runner; its gradient is recorded."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, operator, runner, params = arguments
        ctx.operator, ctx.params = operator, params
        output: Tensor
        found = None if operator.training is None else operator.training(tensors, params)
        if found is not None:
            output, kept = found
        else:
            output = changing.run(runner, *tensors, None)
            kept = operator.saved(tensors, output, params)
        ctx.save_for_backward(*kept)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return *ctx.operator.backward(ctx, *grads, *ctx.params), None, None, None
