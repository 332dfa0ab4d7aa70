"""What the gradients by native CPU kernels share: when they apply, the kernel of bias and activation, linear layers.

A kernel is bound to its problem once and remembered, as forward kernels are: each function below that binds one takes
nothing but what the problem is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastcnn.core import activations, layout, native
from fastcnn.core.backend import current_backend
from fastcnn.core.recall import observed

REMEMBERED = 4096  # problems a kernel is remembered for, as many as a selector remembers

_ACTIVATIONS = ("relu", "sigmoid", "tanh", "scaled_tanh")  # those whose gradient the kernel has, from the output


def apply(*tensors: Tensor | None) -> bool:
    """Whether native kernels may compute a gradient: on plain CPU tensors, and no gradient of it will be asked for."""
    if native.unavailable is not None or torch.is_grad_enabled() or current_backend() not in ("auto", "cpu"):
        return False
    for tensor in tensors:
        if tensor is None:
            continue
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.is_cpu and tensor.dtype in native.DTYPES
        if not plain or tensor.layout is not torch.strided or tensor.is_neg() or tensor._is_zerotensor():
            return False
    return not observed()


@lru_cache(REMEMBERED)
def _bias_activation(
    dtype: torch.dtype, activation: str | None, pixels: int, C: int, dy_stride: int, y_stride: int, threads: int
) -> Any:
    problem = native.struct(
        native.extension.BiasActivationProblem,
        dtype=dtype, activation=activation, pixels=pixels, C=C, dy_stride=dy_stride, y_stride=y_stride,
    )  # fmt: skip
    return native.extension.cpu.bias_activation_gradient(problem, threads)


def bias_activation(
    activation: str | None, grad: Tensor, output: Tensor | None, bias: bool, before: Callable[[], Tensor]
) -> tuple[Tensor, Tensor | None]:
    """The gradients of z and of the bias where output = act(z + bias): (grad * act'(z), its sum over pixels).

    before: computes z, for an activation whose gradient the kernel does not have.
    grad: (N, C, H, W) that a kernel can read in place, or (N, C) contiguous.
    """
    if activation is None and not bias:
        return grad, None
    C = grad.shape[1]
    if activation is not None and (activation not in _ACTIVATIONS or output is None):
        grad, activation = activations.gradient(activation, grad, output, before), None
        grad = layout.channels_last(grad) if grad.dim() == 4 else grad.contiguous()
    if grad.dim() == 4:
        pixels, dy_stride = grad.numel() // C, layout.input_stride(grad)
        y_stride = C if activation is None else layout.input_stride(output)  # type: ignore[arg-type]
    else:
        pixels, dy_stride, y_stride = grad.shape[0], C, C
    dz = None
    if activation is not None:
        dz = layout.empty(grad.shape, grad) if grad.dim() == 4 else torch.empty_like(grad)
    db = torch.empty(C) if bias else None
    kernel = _bias_activation(grad.dtype, activation, pixels, C, dy_stride, y_stride, torch.get_num_threads())
    kernel(grad, None if activation is None else output, dz, db)
    if db is not None and db.dtype is not grad.dtype:
        db = db.to(grad.dtype)
    return grad if dz is None else dz, db


# ---- matrix products of a linear layer ---------------------------------------------------------------------

# Rows up to which the input's gradient is a matter of reading the weight once, and the native kernel ahead of MKL.
FEW_ROWS = 64


@lru_cache(REMEMBERED)
def _products(dtype: torch.dtype, depth: int, K: int, C: int, threads: int) -> Any:
    """a.T @ b of a (depth, K) and b (depth, C): the weight's gradient of a 1x1 convolution of one line of pixels."""
    problem = native.struct(
        native.extension.Conv2dProblem,
        dtype=dtype, N=1, H=1, W=depth, C=C, K=K, R=1, S=1, P=1, Q=depth, groups=1, stride_h=1, stride_w=1,
        dilation_h=1, dilation_w=1, x_stride=C, y_stride=K,
    )  # fmt: skip
    return native.extension.cpu.conv2d_weight_gradient(problem, False, threads)


def outer_products(a: Tensor, b: Tensor) -> Tensor:
    """a.T @ b by the native kernel, (K, C) of contiguous (depth, K) and (depth, C).

    It asks for huge pages, of which a weight's gradient of 151 MB takes 72, and 36,864 of the small ones.
    """
    result = torch.empty(a.shape[1], b.shape[1])
    _products(a.dtype, a.shape[0], a.shape[1], b.shape[1], torch.get_num_threads())(b, a, result)
    return result.to(a.dtype)


def linear_weight(rows: Tensor, input: Tensor) -> Tensor:
    """rows.T @ input, of rows (N, M) and input (N, D)."""
    if not apply(rows, input) or 0 in rows.shape or 0 in input.shape:
        return rows.t() @ input
    return outer_products(rows.contiguous(), input.contiguous())


def linear_input(rows: Tensor, weight: Tensor) -> Tensor:
    """rows @ weight, of rows (N, M) and weight (M, D)."""
    few = 0 < rows.shape[0] <= FEW_ROWS and rows.dtype is torch.float32 and 0 not in weight.shape
    if not few or not weight.is_contiguous() or not apply(rows, weight):
        return rows @ weight
    return outer_products(rows.t().contiguous(), weight)
