"""The gradient of conv2d."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastcnn.backends import cpu_gradients
from fastcnn.core import activations, layout, native

Sizes = tuple[int, ...]
# The bound of the relative error (L2) of the weight's gradient by Winograd: 1e-5, as the extension's float has it.
WINOGRAD_ERROR = torch.tensor(1e-5).item()


def geometry(stride: Any, padding: Any, dilation: Any) -> tuple[Sizes, Sizes, Sizes]:
    """(stride, padding top, bottom, left, right, dilation) as tuples of ints."""
    top, bottom, left, right = padding if len(padding) == 4 else (padding[0], padding[0], padding[-1], padding[-1])
    return tuple(stride), (top, bottom, left, right), tuple(dilation)


def _as_linear(grad: Tensor, input: Tensor, weight: Tensor, padding: Sizes, groups: int) -> bool:
    """Whether the kernel sees the whole image once: a linear layer of the pixels, in the order of channels_last."""
    return (
        grad.shape[2:] == (1, 1)
        and input.shape[2:] == weight.shape[2:]
        and not any(padding)
        and groups == 1
        and all(t.is_contiguous(memory_format=torch.channels_last) for t in (input, weight))
        and grad.numel() > 0
    )


def _linear(grad: Tensor, input: Tensor, weight: Tensor, needs: tuple[bool, bool]) -> tuple[Tensor | None, ...]:
    """The gradients of input and weight."""
    rows, grad_input, grad_weight = grad.flatten(1).contiguous(), None, None
    pixels, taps = input.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
    if needs[0]:
        grad_input = cpu_gradients.linear_input(rows, taps.flatten(1)).view(pixels.shape).permute(0, 3, 1, 2)
    if needs[1]:
        grad_weight = cpu_gradients.linear_weight(rows, pixels.flatten(1)).view(taps.shape).permute(0, 3, 1, 2)
    return grad_input, grad_weight


def _native(
    grad: Tensor, input: Tensor, weight: Tensor, output: Tensor | None, needs: tuple[bool, ...],
    stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, activation: str | None, before: Callable[[], Tensor],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of input, weight, bias and residual, of those that `needs` asks for."""
    grad = layout.channels_last(grad)
    needs_input, needs_weight, needs_bias, needs_residual = needs
    grad, grad_bias = cpu_gradients.bias_activation(activation, grad, output, needs_bias, before)
    if _as_linear(grad, input, weight, padding, groups):
        grads = _linear(grad, input, weight, (needs_input, needs_weight))
        return *grads, grad_bias, grad if needs_residual else None
    grad_input = input_gradient(grad, weight, input, stride, padding, dilation, groups) if needs_input else None
    grad_weight = weight_gradient(grad, input, weight, stride, padding, dilation, groups) if needs_weight else None
    return grad_input, grad_weight, grad_bias, grad if needs_residual else None


def pytorch(
    grad: Tensor, input: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of input and weight by PyTorch."""
    top, bottom, left, right = padding
    symmetric = (top, left) == (bottom, right)
    padded = input if symmetric else torch.nn.functional.pad(input, (left, right, top, bottom))
    grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, padded, weight, None, list(stride), [top, left] if symmetric else [0, 0], list(dilation), False, [0, 0],
        groups, [*needs, False],
    )  # fmt: skip
    if grad_input is not None and not symmetric:
        grad_input = grad_input[:, :, top : top + input.shape[2], left : left + input.shape[3]]
    return grad_input, grad_weight


# ---- with respect to the input: a convolution of stride 1 with the weights flipped -------------------------


@lru_cache(cpu_gradients.REMEMBERED)
def _input_kernel(
    dtype: torch.dtype, shape: Sizes, weight_shape: Sizes, output_shape: Sizes, y_stride: int, padding: Sizes,
    dilation: Sizes, groups: int, contiguous: bool, threads: int, isa: str, tolerance: float,
) -> native.extension.Call | None:  # fmt: skip
    """The kernel, bound; None where PyTorch's is taken."""
    cpu = native.extension.cpu
    N, C, H, W = shape
    _, K, P, Q = output_shape
    R, S = weight_shape[2:]
    problem = native.struct(
        native.extension.Conv2dProblem,
        dtype=dtype, N=N, H=P, W=Q, C=K, K=C, R=R, S=S, P=H, Q=W, groups=groups,
        stride_h=1, stride_w=1, dilation_h=dilation[0], dilation_w=dilation[1],
        pad_h=(R - 1) * dilation[0] - padding[0], pad_w=(S - 1) * dilation[1] - padding[2],
        x_stride=y_stride, y_stride=C,
    )  # fmt: skip
    for algorithm in cpu.conv2d_algorithms():
        if not cpu.conv2d_reason(algorithm, problem, threads):
            form = cpu.WeightForm.flipped_contiguous if contiguous else cpu.WeightForm.flipped_channels_last
            return cpu.Conv2d(problem, algorithm).bound(threads, (shape, layout.strides(shape)), form)
    return None


def input_gradient(
    grad: Tensor, weight: Tensor, input: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor | None:
    R, S = weight.shape[2:]
    # Strides above 1 leave gaps between the gradients; padding beyond the kernel's reach would be cut off.
    fits = stride == (1, 1) and padding[0] <= (R - 1) * dilation[0] and padding[2] <= (S - 1) * dilation[1]
    # Fewer channels than a vector of AVX-512 waste lanes: there PyTorch's kernels are ahead.
    if not fits or weight.shape[1] < 16 or not grad.numel():
        return pytorch(grad, input, weight, stride, padding, dilation, groups, (True, False))[0]
    cpu = native.extension.cpu
    source = weight.detach().to(torch.float32)
    contiguous = not source.is_contiguous(memory_format=torch.channels_last)
    source = source.contiguous() if contiguous else source
    kernel = _input_kernel(
        grad.dtype, tuple(input.shape), tuple(weight.shape), tuple(grad.shape), layout.input_stride(grad),
        padding, dilation, groups, contiguous, torch.get_num_threads(), cpu.isa(), cpu.winograd_tolerance(),
    )  # fmt: skip
    if kernel is None:
        return pytorch(grad, input, weight, stride, padding, dilation, groups, (True, False))[0]
    return kernel(grad, source, None, None, None)


# ---- with respect to the weight ----------------------------------------------------------------------------


@lru_cache(cpu_gradients.REMEMBERED)
def _weight_kernel(
    dtype: torch.dtype, shape: Sizes, x_stride: int, weight_shape: Sizes, output_shape: Sizes, y_stride: int,
    stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, contiguous: bool, threads: int, tolerance: float,
) -> native.extension.Call:  # fmt: skip
    N, C, H, W = shape
    _, K, P, Q = output_shape
    problem = native.struct(
        native.extension.Conv2dProblem,
        dtype=dtype, N=N, H=H, W=W, C=C, K=K, R=weight_shape[2], S=weight_shape[3], P=P, Q=Q, groups=groups,
        stride_h=stride[0], stride_w=stride[1], dilation_h=dilation[0], dilation_w=dilation[1],
        pad_h=padding[0], pad_w=padding[2], x_stride=x_stride, y_stride=y_stride,
    )  # fmt: skip
    # Where channels are few the transforms cost more than they save: ahead by 1.4 at 64 channels and 1.8 at 256.
    fits = weight_shape[2:] in ((3, 3), (5, 5)) and stride == (1, 1) and dilation == (1, 1)
    winograd = fits and tolerance >= WINOGRAD_ERROR and min(C, K) // groups >= 32 and N * P * Q >= 64
    return native.extension.cpu.conv2d_weight_gradient(problem, contiguous, threads, winograd)


def weight_gradient(
    grad: Tensor, input: Tensor, weight: Tensor, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor | None:
    # Few channels a group fill no vector: PyTorch's kernels for such are as good.
    if dilation[1] != 1 or (groups > 1 and weight.shape[1] < 16):
        return pytorch(grad, input, weight, stride, padding, dilation, groups, (False, True))[1]
    input = layout.channels_last(input)
    contiguous = weight.is_contiguous() or not weight.is_contiguous(memory_format=torch.channels_last)
    layout_of = torch.contiguous_format if contiguous else torch.channels_last
    result = torch.empty(weight.shape, memory_format=layout_of)
    kernel = _weight_kernel(
        grad.dtype, tuple(input.shape), layout.input_stride(input), tuple(weight.shape), tuple(grad.shape),
        layout.input_stride(grad), stride, padding, dilation, groups, contiguous, torch.get_num_threads(),
        native.extension.cpu.winograd_tolerance(),
    )  # fmt: skip
    kernel(input, grad, result)
    return result.to(weight.dtype)


def backward(ctx: Any, grad: Tensor, stride: Any, padding: Any, dilation: Any, groups: int, activation: Any) -> Any:
    input, weight, bias, residual, output = ctx.saved_tensors

    def before() -> Tensor:
        options = list(stride), list(padding), list(dilation), groups, None
        output: Tensor = torch.ops.fastcnn.conv2d(input, weight, bias, residual, *options)
        return output

    needs = ctx.needs_input_grad[:4]
    window = (*geometry(stride, padding, dilation), groups)
    if cpu_gradients.apply(grad, input, weight, output):
        return _native(grad, input, weight, output, needs, *window, activation, before)
    needs_input, needs_weight, needs_bias, needs_residual = needs
    grad = activations.gradient(activation, grad, output, before)
    grad_input = grad_weight = None
    if needs_input or needs_weight:
        grad_input, grad_weight = pytorch(grad, input, weight, *window, (needs_input, needs_weight))
    return grad_input, grad_weight, grad.sum((0, 2, 3)) if needs_bias else None, grad if needs_residual else None
