"""The operators as functions. Where PyTorch has the function, ours takes its arguments and agrees with it.

Activations are (N, C, H, W) tensors; `max_pool2d`, `avg_pool2d`, `adaptive_avg_pool2d` and `conv2d` also take
(C, H, W). Kernels work in channels_last memory order and every 4-D result has it; other layouts are converted
on the way in. float32, float16 and bfloat16 have kernels of their own and accumulate in float32; every other
dtype is computed by PyTorch. All functions are differentiable unless `out` is given.

Every function raises TypeError for an argument of the wrong type or dtype and ValueError for a wrong value;
the message names the argument, what it was and what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from fastcnn import ops
from fastcnn.core import checks
from fastcnn.core.operator import call_definition

__all__ = [
    "adaptive_avg_pool2d",
    "add_relu",
    "avg_pool2d",
    "concat",
    "conv1x1_relu",
    "conv2d",
    "conv3x3_relu",
    "linear",
    "local_response_norm",
    "max_pool2d",
    "rbf",
    "scale_channels",
    "subsample2d",
]

IntOrPair = int | Sequence[int]
_any_autocast = torch._C._is_any_autocast_enabled


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """2-D convolution with a fused epilogue.

    y[n,k,p,q] = act(bias[k] + residual[n,k,p,q] + sum_{c,r,s} input[n,c,h,w] * weight[k,c,r,s])
    with h = p * stride - padding + r * dilation, w likewise; input is 0 outside the image

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (K, C / groups, R, S).
        bias: (K,).
        stride, dilation: an int or two ints.
        padding: an int, two ints, "valid" or "same" (stride 1 only).
        groups: divides C and K.
        activation: None, or a name in fastcnn.core.activations.TABLE: "relu", "silu", "gelu", "hardswish", ...
        residual: added before the activation; the shape of the output.
        out: written and returned; may be a channel slice of a larger channels_last tensor, which is how
            branches are concatenated without a copy. No gradient flows through it.

    Returns:
        (N, K, P, Q), with P = (H + padding above and below - dilation * (R - 1) - 1) // stride + 1.
    """
    tensors = (input, weight, bias, residual, out)
    if has_torch_function(tensors):
        return handle_torch_function(
            conv2d, tensors, input, weight, bias, stride, padding, dilation, groups,
            activation=activation, residual=residual, out=out,
        )  # fmt: skip
    if _any_autocast() and _autocasts(input):
        input, weight, bias, residual = _autocast(input, weight, bias, residual)
    return ops.conv2d((input, weight, bias, residual), (stride, padding, dilation, groups, activation), out)


def conv3x3_relu(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 1,
    **epilogue: Any,
) -> Tensor:
    """relu(conv2d(input, weight, bias)) with a 3x3 kernel, padding 1 unless given.

    y = max(conv2d(input, weight) + bias + residual, 0)

    `epilogue` takes `residual` and `out` as `conv2d` does.
    """
    _kernel_is("conv3x3_relu", weight, 3)
    return conv2d(input, weight, bias, stride, padding, activation="relu", **epilogue)


def conv1x1_relu(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: IntOrPair = 1, **epilogue: Any
) -> Tensor:
    """relu(conv2d(input, weight, bias)) with a 1x1 kernel: a matrix product over pixels.

    y = max(sum_c input[c] * weight[:, c] + bias + residual, 0)

    `epilogue` takes `residual` and `out` as `conv2d` does.
    """
    _kernel_is("conv1x1_relu", weight, 1)
    return conv2d(input, weight, bias, stride, activation="relu", **epilogue)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Local response normalisation across channels.

    y[c] = input[c] * (k + alpha/size * sum_{c' in window(c)} input[c']^2)^-beta
    with window(c) = [c - size//2, c + (size-1)//2]

    As in PyTorch, alpha is divided by the window size; the paper does not divide it. To reproduce the paper's
    alpha of 1e-4 with a window of 5, pass alpha=5e-4.

    Args:
        input: (N, C, ...), at least 3-D.
        size: channels in the window.

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012, 3.3.
    """
    if has_torch_function((input,)):
        return handle_torch_function(local_response_norm, (input,), input, size, alpha, beta, k)
    params = (size, alpha, beta, k)
    checks.tensor("local_response_norm", "input", input)
    if input.dim() != 4:
        if input.dim() < 3:
            raise ValueError(
                f"local_response_norm: input is {input.dim()}-D with shape {checks.shape(input)}; (N, C, ...) is needed"
            )
        N, C = input.shape[:2]
        flat = input.reshape(N, C, 1, -1) if input.numel() else input.reshape(N, C, 1, 0)
        return ops.local_response_norm((flat,), params).reshape(input.shape)
    return ops.local_response_norm((input,), params)


def max_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Max-pooling.

    y[n,c,p,q] = max_{r,s} input[n, c, p*stride - padding + r*dilation, ...]; NaN wins, padding never does

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding, dilation: an int or two ints; stride defaults to kernel_size.
        ceil_mode: round the output size up, letting the last window overhang.
        return_indices: also return where each maximum was; computed by PyTorch.
    """
    args = (kernel_size, stride, padding, dilation, ceil_mode)
    if has_torch_function((input,)):
        return handle_torch_function(max_pool2d, (input,), input, *args, return_indices)
    if return_indices is not False and checks.flag("max_pool2d", "return_indices", return_indices):
        # The kernels keep no indices, but the arguments are refused alike.
        meta = input.detach().to("meta") if isinstance(input, Tensor) else input
        max_pool2d(meta, *args)
        return call_definition("max_pool2d", F.max_pool2d, [input], (*args, True))
    return ops.max_pool2d((input,), args)


def avg_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average-pooling.

    y[n,c,p,q] = sum_{r,s} input[n, c, p*stride - padding + r, ...] / divisor

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding: an int or two ints; stride defaults to kernel_size.
        ceil_mode: round the output size up, letting the last window overhang.
        count_include_pad: whether padding counts in the divisor.
        divisor_override: the divisor, in the place of the number of positions.
    """
    args = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    if has_torch_function((input,)):
        return handle_torch_function(avg_pool2d, (input,), input, *args)
    return ops.avg_pool2d((input,), args)


def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None] | None) -> Tensor:
    """Average-pooling to a given output size.

    y[n,c,p,q] = mean of input[n, c, floor(p*H/P) : ceil((p+1)*H/P), ...]

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: an int or two ints; None keeps the input's size. 1 is global average pooling.
    """
    if has_torch_function((input,)):
        return handle_torch_function(adaptive_avg_pool2d, (input,), input, output_size)
    return ops.adaptive_avg_pool2d((input,), (output_size,))


def subsample2d(
    input: Tensor,
    coefficient: Tensor,
    bias: Tensor,
    kernel_size: int = 2,
    *,
    activation: str | None = "tanh",
) -> Tensor:
    """LeNet-5's trainable subsampling.

    y[n,c,p,q] = act(bias[c] + coefficient[c] * sum of input[n, c] over block (p, q))

    Blocks are kernel_size x kernel_size and do not overlap; rows and columns that fill no block are left out.

    Args:
        input: (N, C, H, W).
        coefficient, bias: (C,).
        activation: None, or a name that `conv2d` takes; "scaled_tanh" is the paper's.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998, II.B.
    """
    if has_torch_function((input, coefficient, bias)):
        return handle_torch_function(
            subsample2d,
            (input, coefficient, bias),
            input,
            coefficient,
            bias,
            kernel_size,
            activation=activation,
        )
    return ops.subsample2d((input, coefficient, bias), (kernel_size, activation))


def concat(tensors: Sequence[Tensor]) -> Tensor:
    """The inputs side by side along channels.

    y = [tensors[0], tensors[1], ...] along dimension 1

    Args:
        tensors: (N, C_i, H, W) each; only the channels may differ.

    To save the copy, let each branch write its own slice: see `out` of `conv2d`.
    """
    if not isinstance(tensors, list | tuple):
        raise TypeError(f"concat: tensors is {type(tensors).__name__}; a list or tuple of tensors is needed")
    if has_torch_function(tensors):
        return handle_torch_function(concat, tensors, tensors)
    return ops.concat(tuple(tensors), ())


def add_relu(input: Tensor, other: Tensor) -> Tensor:
    """The residual addition and its ReLU in one pass over memory.

    y = max(input + other, 0)

    Args:
        input, other: tensors of one shape, any rank.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, 3.2.
    """
    if has_torch_function((input, other)):
        return handle_torch_function(add_relu, (input, other), input, other)
    return ops.add_relu((input, other), ())


def scale_channels(
    input: Tensor,
    scale: Tensor,
    residual: Tensor | None = None,
    *,
    activation: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Each channel of each image times a number of its own, with the addition and activation that follow.

    y[n,c,h,w] = act(input[n,c,h,w] * scale[n,c] + residual[n,c,h,w])

    Args:
        input: (N, C, H, W).
        scale: (N, C) or (N, C, 1, 1).
        residual: a tensor of the input's shape.
        activation: see `conv2d`.
        out: where to write, as in `conv2d`.

    Source: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", 2018, equation 4.
    """
    if has_torch_function((input, scale, residual)):
        return handle_torch_function(
            scale_channels, (input, scale, residual), input, scale, residual, activation=activation, out=out
        )
    return ops.scale_channels((input, scale, residual), (activation,), out)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None) -> Tensor:
    """Matrix product with a fused epilogue.

    y = act(input @ weight.T + bias)

    Args:
        input: (..., in_features).
        weight: (out_features, in_features), or (in_features,) for one output without its dimension.
        bias: (out_features,), or any shape that broadcasts to the output.
        activation: None, or a name that `conv2d` takes.
    """
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(linear, (input, weight, bias), input, weight, bias, activation=activation)
    if _any_autocast() and _autocasts(input):
        input, weight, bias, _ = _autocast(input, weight, bias, None)
    return ops.linear((input, weight, bias), (activation,))


def rbf(input: Tensor, centers: Tensor) -> Tensor:
    """Squared Euclidean distances: LeNet-5's output units.

    y[n,m] = sum_d (input[n,d] - centers[m,d])^2

    Summed as written: the expanded form |x|^2 - 2xc + |c|^2 cancels where a sample lies near its center.

    Args:
        input: (N, D).
        centers: (M, D).

    Returns:
        (N, M). The predicted class is the unit with the smallest output.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998, II.B.
    """
    if has_torch_function((input, centers)):
        return handle_torch_function(rbf, (input, centers), input, centers)
    return ops.rbf((input, centers), ())


def _kernel_is(op: str, weight: Any, size: int) -> None:
    if has_torch_function((weight,)):  # a proxy of torch.fx, for example: conv2d hands the call on
        return
    checks.tensor(op, "weight", weight)
    if weight.dim() != 4 or tuple(weight.shape[2:]) != (size, size):
        raise ValueError(f"{op}: weight has shape {checks.shape(weight)}; (K, C, {size}, {size}) is needed")


def _autocasts(input: Any) -> bool:
    """Whether torch.autocast, on for some device, is on for that of `input`; asked about "meta", PyTorch raises."""
    if not isinstance(input, Tensor) or input.device.type == "meta":
        return False
    return torch.is_autocast_enabled(input.device.type)


def _autocast(*tensors: Any) -> tuple[Any, ...]:
    """Casts as torch.autocast does for convolution and linear: to its lower-precision dtype."""
    dtype = torch.get_autocast_dtype(tensors[0].device.type)
    return tuple(
        t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() and t.dtype is not torch.float64 else t
        for t in tensors
    )
