"""A fastcnn model as PyTorch alone: what the baselines run, and in float64 the truth they are checked by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fastcnn import functional
from fastcnn.core.activations import TANH_A, TANH_S


def _activate(activation: str | None, x: Tensor) -> Tensor:
    # In place, as torchvision's networks do it: a new tensor would slow the baseline down.
    if activation is None:
        return x
    if activation == "relu":
        return F.relu(x, inplace=True)
    if activation == "sigmoid":
        return torch.sigmoid(x)
    if activation == "tanh":
        return torch.tanh(x)
    return TANH_A * torch.tanh(TANH_S * x)


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, *, activation: str | None = None, residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    y = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    if residual is not None:
        y += residual
    return _activate(activation, y)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None) -> Tensor:
    return _activate(activation, F.linear(input, weight, bias))


def subsample2d(
    input: Tensor, coefficient: Tensor, bias: Tensor, kernel_size: int = 2, *, activation: str | None = "tanh"
) -> Tensor:
    mean = F.avg_pool2d(input, kernel_size)
    y = mean * (coefficient * kernel_size**2)[:, None, None] + bias[:, None, None]
    return _activate(activation, y)


def concat(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors, dim=1)


def add_relu(input: Tensor, other: Tensor) -> Tensor:
    return F.relu(input + other, inplace=True)


def rbf(input: Tensor, centers: Tensor) -> Tensor:
    return (input[:, None, :] - centers).square().sum(-1)


def scale_channels(
    input: Tensor, scale: Tensor, residual: Tensor | None = None, *, activation: str | None = None
) -> Tensor:
    y = input * scale[:, :, None, None] if scale.dim() == 2 else input * scale
    return _activate(activation, y if residual is None else y + residual)


def conv3x3_relu(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 1, **epilogue: Any
) -> Tensor:
    return conv2d(input, weight, bias, stride, padding, activation="relu", **epilogue)


def conv1x1_relu(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, **epilogue: Any) -> Tensor:
    return conv2d(input, weight, bias, stride, activation="relu", **epilogue)


# Each function of fastcnn.functional in PyTorch's operators, written apart from the reference backend so that
# a mistake there is seen here.
EAGER: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.conv2d: conv2d,
    functional.conv3x3_relu: conv3x3_relu,
    functional.conv1x1_relu: conv1x1_relu,
    functional.linear: linear,
    functional.subsample2d: subsample2d,
    functional.concat: concat,
    functional.add_relu: add_relu,
    functional.rbf: rbf,
    functional.scale_channels: scale_channels,
    functional.local_response_norm: F.local_response_norm,
    functional.max_pool2d: F.max_pool2d,
    functional.avg_pool2d: F.avg_pool2d,
    functional.adaptive_avg_pool2d: F.adaptive_avg_pool2d,
}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith("torch.nn.") and not isinstance(m, nn.Sequential)


def plain(model: nn.Module) -> nn.Module:
    """A copy of `model` that calls PyTorch's operators where the original calls fastcnn's."""
    model = copy.deepcopy(model).eval()
    graph = _Tracer().trace(model)
    for node in graph.nodes:
        if node.op == "call_function" and node.target in EAGER:
            node.target = EAGER[node.target]
            # A slice to write into is fastcnn's alone; a traced model has none.
            node.kwargs = {name: value for name, value in node.kwargs.items() if name != "out"}
    return fx.GraphModule(model, graph, class_name=type(model).__name__).eval()
