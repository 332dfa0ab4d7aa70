"""Batch normalisation in training, with the addition and the ReLU behind it, as one native CPU kernel each way.

y = act((x - mean) / sqrt(variance + eps) * weight + bias + residual), act = ReLU or nothing
mean, variance: of x over batch and image; the running ones move towards them as in torch.nn.BatchNorm2d

PyTorch makes three passes over memory for it forward (statistics, normalisation, ReLU) and four backward; these are
two each way, and the sum of a residual block is never written before its ReLU.

Source: Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training", 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcnn.backends import cpu_gradients
from fastcnn.core import layout, native
from fastcnn.core.backend import current_backend
from fastcnn.core.recall import dynamo_compiles, observed


@lru_cache(cpu_gradients.REMEMBERED)
def _kernel(kind: str, threads: int, **fields: object) -> native.extension.Call:
    bind: Callable[..., native.extension.Call] = getattr(native.extension.cpu, kind)
    return bind(native.struct(native.extension.BatchNormProblem, **fields), threads)


def _bound(
    kind: str, input: Tensor, eps: float, momentum: float, relu: bool, residual_stride: int | None, dy_stride: int
) -> native.extension.Call:
    N, C, H, W = input.shape
    return _kernel(
        kind, torch.get_num_threads(),
        dtype=input.dtype, relu=relu, has_residual=residual_stride is not None, pixels=N * H * W, C=C, eps=eps,
        momentum=momentum, x_stride=layout.input_stride(input), residual_stride=residual_stride or 0,
        dy_stride=dy_stride,
    )  # fmt: skip


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
        running_mean: Tensor | None, running_var: Tensor | None, momentum: float, eps: float, relu: bool,
    ) -> Tensor:  # fmt: skip
        mean, inv_std = input.new_empty((2, input.shape[1]), dtype=torch.float32)
        output = layout.empty(input.shape, input)
        stride = None if residual is None else layout.input_stride(residual)
        kernel = _bound("batch_norm", input, eps, momentum, relu, stride, 0)
        kernel(input, weight, bias, residual, running_mean, running_var, mean, inv_std, output)
        for changed in (running_mean, running_var):
            if changed is not None:
                torch.autograd.graph.increment_version(changed)
        ctx.eps, ctx.relu, ctx.has_residual = eps, relu, residual is not None
        # Without a residual the ReLU's mask is known from the input.
        ctx.save_for_backward(input, weight, bias, mean, inv_std, output if relu and ctx.has_residual else None)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        input, weight, bias, mean, inv_std, output = ctx.saved_tensors
        if not cpu_gradients.apply(grad, input):
            return _differentiable(ctx, grad, input, weight, bias, output)
        grad = layout.channels_last(grad)
        C, like = input.shape[1], {"dtype": torch.float32, "device": input.device}
        grad_input = layout.empty(input.shape, input)
        needs_residual = ctx.has_residual and ctx.needs_input_grad[3]
        grad_residual = layout.empty(input.shape, input) if needs_residual and ctx.relu else None
        grad_weight, grad_bias = torch.empty(C, **like), torch.empty(C, **like)
        stride = layout.input_stride(input) if ctx.has_residual else None  # of no use but to say that there is one
        kernel = _bound("batch_norm_gradient", input, ctx.eps, 0.0, ctx.relu, stride, layout.input_stride(grad))
        kernel(
            input, weight, bias, None, None, None, mean, inv_std, output, grad, grad_input, grad_residual,
            grad_weight, grad_bias,
        )  # fmt: skip
        if needs_residual and grad_residual is None:
            grad_residual = grad
        return (
            grad_input, None if weight is None else grad_weight, None if bias is None else grad_bias, grad_residual,
            None, None, None, None, None,
        )  # fmt: skip


def _differentiable(
    ctx: Any, grad: Tensor, input: Tensor, weight: Tensor | None, bias: Tensor | None, output: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients in PyTorch's operators, of which gradients can be taken again."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [t if t is None or t.requires_grad else t.detach().requires_grad_() for t in (input, weight, bias)]
        z = F.batch_norm(inputs[0], None, None, inputs[1], inputs[2], True, 0.0, ctx.eps)  # type: ignore[arg-type]
        if ctx.relu:
            grad = grad * ((z if output is None else output).detach() > 0)
        present = [t for t in inputs if t is not None]
        found = iter(torch.autograd.grad(z, present, grad, create_graph=again))
    gradients = [None if t is None else next(found) for t in inputs]
    return *gradients, grad if ctx.has_residual else None, None, None, None, None, None


def is_plain(module: nn.Module) -> bool:
    """Whether a call of the module is a call of its forward, and nothing else."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return not any(hooks) and not nn.modules.module._has_any_global_hook()


def _takes(norm: nn.Module, input: Any, residual: Any) -> bool:
    if dynamo_compiles() or type(norm) is not nn.BatchNorm2d or native.unavailable is not None:
        return False
    if not norm.training or type(input) is not Tensor or input.dim() != 4 or input.dtype not in native.DTYPES:
        return False
    if norm.running_mean is None or norm.running_mean.dtype is not torch.float32 or input.shape[1] != norm.num_features:
        return False
    if residual is not None and not (type(residual) is Tensor and residual.dtype is input.dtype
                                     and residual.shape == input.shape):  # fmt: skip
        return False
    tensors = [t for t in (input, norm.weight, norm.bias, residual) if t is not None]
    if not all(t.is_cpu and t.layout is torch.strided and not t.is_neg() for t in tensors):
        return False
    if any(t is not None and t.dtype is not torch.float32 for t in (norm.weight, norm.bias)):
        return False
    if input.numel() // max(1, input.shape[1]) <= 1 or current_backend() not in ("auto", "cpu"):
        return False  # PyTorch says that one value a channel has no variance
    return not observed()


def training_step(
    norm: nn.Module, input: Tensor, relu: nn.Module | None = None, residual: Tensor | None = None
) -> Tensor | None:
    """relu(norm(input) + residual) by the fused kernel; None where it does not apply, and the modules must be called.

    It applies to a BatchNorm2d that trains, on plain CPU tensors, where no hook, tracer or transform looks on.
    """
    if not _takes(norm, input, residual) or not is_plain(norm) or (relu is not None and not is_plain(relu)):
        return None
    assert isinstance(norm, nn.BatchNorm2d)
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    # Converted out here: what the function saves must be its inputs, or second derivatives would end at a copy.
    input, residual = layout.channels_last(input), None if residual is None else layout.channels_last(residual)
    output: Tensor = _BatchNorm.apply(  # type: ignore[no-untyped-call]
        input, norm.weight, norm.bias, residual, norm.running_mean, norm.running_var, momentum, norm.eps,
        relu is not None,
    )  # fmt: skip
    return output
