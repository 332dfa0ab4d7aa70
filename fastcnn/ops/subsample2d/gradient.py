"""The gradient of subsample2d."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastcnn.backends import cpu_gradients
from fastcnn.core import activations, layout, native
from fastcnn.ops.subsample2d import cpu
from fastcnn.ops.subsample2d.contract import Subsample2dProblem, infer


@lru_cache(cpu_gradients.REMEMBERED)
def _kernel(problem: Subsample2dProblem, dy_stride: int) -> native.extension.Call:
    bound = cpu.native_problem(problem._replace(y_stride=dy_stride))
    return native.extension.cpu.subsample2d_gradient(bound, problem.threads)


def _native(
    grad: Tensor,
    input: Tensor,
    coefficient: Tensor,
    output: Tensor | None,
    kernel_size: int,
    activation: str | None,
    before: Callable[[], Tensor],
) -> tuple[Tensor, Tensor, Tensor | None]:
    grad, input = layout.channels_last(grad), layout.channels_last(input)
    grad, grad_bias = cpu_gradients.bias_activation(activation, grad, output, True, before)
    problem = infer((input, coefficient, coefficient, None), (kernel_size, activation))
    grad_input = layout.empty(input.shape, input)
    grad_coefficient = torch.empty(coefficient.shape)
    kernel = _kernel(problem, layout.input_stride(grad))
    kernel(input, coefficient.detach().to(torch.float32).contiguous(), grad, grad_input, grad_coefficient)
    return grad_input, grad_coefficient.to(coefficient.dtype), grad_bias


def block_sum(input: Tensor, kernel_size: int) -> Tensor:
    """The sum of each kernel_size x kernel_size block."""
    return torch.nn.functional.avg_pool2d(input, kernel_size, divisor_override=1)


def backward(ctx: Any, grad: Tensor, kernel_size: int, activation: str | None) -> Any:
    input, coefficient, bias, output = ctx.saved_tensors

    def before() -> Tensor:
        output: Tensor = torch.ops.fastcnn.subsample2d(input, coefficient, bias, kernel_size, None)
        return output

    # The kernel counts pixels in 32 bits.
    if cpu_gradients.apply(grad, input, coefficient, output) and 0 < input.numel() < 2**31:
        return _native(grad, input, coefficient, output, kernel_size, activation, before)
    grad = activations.gradient(activation, grad, output, before)
    window = ([kernel_size, kernel_size], [kernel_size, kernel_size], [0, 0], False, True, 1)
    return (
        torch.ops.aten.avg_pool2d_backward(grad * coefficient[:, None, None], input, *window),
        (grad * block_sum(input, kernel_size)).sum((0, 2, 3)),
        grad.sum((0, 2, 3)),
    )
