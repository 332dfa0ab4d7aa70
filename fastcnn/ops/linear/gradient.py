"""The gradient of linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastcnn.backends import cpu_gradients
from fastcnn.core import activations


def backward(ctx: Any, grad: Tensor, activation: str | None) -> Any:
    input, weight, bias, output = ctx.saved_tensors
    needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    grad_input = grad_weight = grad_bias = None

    def before() -> Tensor:
        output: Tensor = torch.ops.fastcnn.linear(input, weight, bias, None)
        return output

    # The kernel sums over all but the last dimension: a bias of another shape is broadcast otherwise.
    if cpu_gradients.apply(grad, output) and weight.dim() == 2 and (bias is None or bias.dim() == 1):
        flat, of = grad.reshape(-1, grad.shape[-1]).contiguous(), None if output is None else output.flatten(0, -2)
        flat, grad_bias = cpu_gradients.bias_activation(
            activation, flat, of, needs_bias and len(bias) == flat.shape[1], lambda: before().flatten(0, -2)
        )
        grad = flat.view(grad.shape)
    else:
        grad = activations.gradient(activation, grad, output, before)
    if needs_bias and grad_bias is None:
        grad_bias = grad.sum_to_size(bias.shape)
    matrix = weight if weight.dim() == 2 else weight[None]
    rows = grad if weight.dim() == 2 else grad[..., None]
    if needs_input:
        grad_input = cpu_gradients.linear_input(rows.reshape(-1, rows.shape[-1]), matrix).reshape(input.shape)
    if needs_weight:
        grad_weight = cpu_gradients.linear_weight(rows.reshape(-1, rows.shape[-1]), input.reshape(-1, input.shape[-1]))
        grad_weight = grad_weight.reshape(weight.shape)
    return grad_input, grad_weight, grad_bias
