"""The gradient of local_response_norm."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcnn.backends import cpu_gradients
from fastcnn.core import layout, native


@lru_cache(cpu_gradients.REMEMBERED)
def _kernel(
    dtype: torch.dtype, pixels: int, C: int, size: int, alpha: float, beta: float, k: float, x_stride: int,
    dy_stride: int, threads: int,
) -> native.extension.Call:  # fmt: skip
    problem = native.struct(
        native.extension.LrnProblem,
        dtype=dtype, pixels=pixels, C=C, size=size, alpha=alpha, beta=beta, k=k, x_stride=x_stride, y_stride=dy_stride,
    )  # fmt: skip
    return native.extension.cpu.lrn_gradient(problem, threads)


def _native(grad: Tensor, input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """The gradient of the input."""
    grad, input = layout.channels_last(grad), layout.channels_last(input)
    N, C, H, W = input.shape
    result = layout.empty(input.shape, input)
    kernel = _kernel(
        input.dtype, N * H * W, C, size, alpha, beta, k, layout.input_stride(input), layout.input_stride(grad),
        torch.get_num_threads(),
    )  # fmt: skip
    kernel(input, grad, result)
    return result


def window_sum(x: Tensor, before: int, after: int) -> Tensor:
    """sum of x[c - before .. c + after] over channels, zero outside."""
    N, C, H, W = x.shape
    if x.numel() == 0:
        return x
    padded = F.pad(x, (0, 0, 0, 0, before, after)).reshape(N, 1, C + before + after, H, W)
    return F.avg_pool3d(padded, (before + after + 1, 1, 1), stride=1, divisor_override=1).reshape(x.shape)


def backward(ctx: Any, grad: Tensor, size: int, alpha: float, beta: float, k: float) -> Any:
    # y = x s^-beta with s = k + alpha/size sum x^2, so
    # dx = g s^-beta - 2 alpha beta / size * x * (sum over the mirrored window of g x s^(-beta - 1)).
    (x,) = ctx.saved_tensors
    if cpu_gradients.apply(grad, x):
        return (_native(grad, x, size, alpha, beta, k),)
    dtype = x.dtype
    if dtype in (torch.float16, torch.bfloat16):
        x, grad = x.float(), grad.float()
    before, after = size // 2, (size - 1) // 2
    s = k + alpha / size * window_sum(x * x, before, after)
    power = s.pow(-beta)
    dx = grad * power - (2 * alpha * beta / size) * x * window_sum(grad * x * power / s, after, before)
    return (dx.to(dtype),)
