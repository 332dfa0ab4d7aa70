"""The gradients of the pools, and on the CPU the max-pool that remembers where its maxima were."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastcnn.backends import cpu_gradients
from fastcnn.core import layout, native
from fastcnn.ops.pool import cpu
from fastcnn.ops.pool.contract import AdaptiveAvgPool2dProblem, Pool2dProblem, infer_adaptive, infer_avg, infer_max


@lru_cache(cpu_gradients.REMEMBERED)
def _taps_kernel(problem: Pool2dProblem) -> Any:
    return native.extension.cpu.max_pool2d_taps(cpu.native_pool2d(problem), problem.threads)


def max_pool2d_taps(input: Tensor, problem: Pool2dProblem) -> tuple[Tensor, Tensor] | None:
    """(output, taps): of each element of the output the tap of its window that was largest, a byte.

    None where a byte does not hold it, or where channels fill less than a vector: there PyTorch's kernels, which
    keep 8 bytes, are ahead.
    """
    if problem.kernel_size[0] * problem.kernel_size[1] > 256 or problem.C < 16:
        return None
    input = layout.channels_last(input)
    output = problem.empty_output(input)
    taps = output.new_empty_strided(output.shape, output.stride(), dtype=torch.uint8)
    _taps_kernel(problem)(input, output, taps)
    return output, taps


@lru_cache(cpu_gradients.REMEMBERED)
def _pool_kernel(problem: Pool2dProblem, dy_stride: int) -> Any:
    bound = cpu.native_pool2d(problem._replace(y_stride=dy_stride))
    return native.extension.cpu.pool2d_gradient(bound, problem.threads)


def pool2d_gradient(grad: Tensor, taps: Tensor | None, problem: Pool2dProblem) -> Tensor:
    """The gradient of the input. taps: of max_pool2d_taps; None for the average."""
    grad = layout.channels_last(grad)
    result = layout.empty((problem.N, problem.C, problem.H, problem.W), grad)
    _pool_kernel(problem, layout.input_stride(grad))(taps, grad, result)
    return result


@lru_cache(cpu_gradients.REMEMBERED)
def _adaptive_kernel(problem: AdaptiveAvgPool2dProblem, dy_stride: int) -> Any:
    bound = cpu.native_adaptive_avg_pool2d(problem._replace(y_stride=dy_stride))
    return native.extension.cpu.adaptive_avg_pool2d_gradient(bound, problem.threads)


def adaptive_gradient(grad: Tensor, problem: AdaptiveAvgPool2dProblem) -> Tensor:
    """The gradient of the input."""
    grad = layout.channels_last(grad)
    result = layout.empty((problem.N, problem.C, problem.H, problem.W), grad)
    _adaptive_kernel(problem, layout.input_stride(grad))(grad, result)
    return result


# ---- what the operators call ------------------------------------------------------------------------------


def training_max(tensors: Sequence[Any], params: tuple[Any, ...]) -> tuple[Tensor, Sequence[Any]] | None:
    (input,) = tensors
    if not cpu_gradients.apply(input):
        return None
    found = max_pool2d_taps(input, infer_max((input, None), params))
    return None if found is None else (found[0], (input, found[1]))


def backward_max(ctx: Any, grad: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    input, *taps = ctx.saved_tensors
    if taps and cpu_gradients.apply(grad, input):
        problem = infer_max((input, None), (kernel, stride, padding, dilation, ceil_mode))
        return (pool2d_gradient(grad, taps[0], problem),)
    # Without taps the indices are found again: one more pooling, where something traces, or differentiates again.
    window = (list(kernel), list(stride), list(padding), list(dilation), ceil_mode)
    with torch.no_grad():
        _, indices = torch.ops.aten.max_pool2d_with_indices(input, *window)
    return (torch.ops.aten.max_pool2d_with_indices_backward(grad, input, *window, indices),)


def backward_avg(
    ctx: Any,
    grad: Tensor,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: Any,
) -> Any:
    (input,) = ctx.saved_tensors
    if cpu_gradients.apply(grad, input):
        problem = infer_avg((input, None), (kernel, stride, padding, ceil_mode, count_include_pad, divisor))
        return (pool2d_gradient(grad, None, problem),)
    window = (list(kernel), list(stride), list(padding), ceil_mode, count_include_pad, divisor)
    return (torch.ops.aten.avg_pool2d_backward(grad, input, *window),)


def backward_adaptive(ctx: Any, grad: Tensor, output_size: Any) -> Any:
    (input,) = ctx.saved_tensors
    if cpu_gradients.apply(grad, input):
        return (adaptive_gradient(grad, infer_adaptive((input, None), (output_size,))),)
    return (torch.ops.aten._adaptive_avg_pool2d_backward(grad, input),)
