"""The activations that an epilogue may apply, and their gradients from the output."""

from __future__ import annotations

import torch
from torch import Tensor

# LeNet-5's squashing function, A * tanh(S * a) (LeCun et al. 1998, appendix A): its slope is close to 1 at 0
# and f(1) = 1.
TANH_A, TANH_S = 1.7159, 2.0 / 3.0


def apply(activation: str | None, x: Tensor) -> Tensor:
    """act(x) in PyTorch operators."""
    if activation is None:
        return x
    if activation == "relu":
        return torch.relu(x)
    if activation == "sigmoid":
        return torch.sigmoid(x)
    if activation == "tanh":
        return torch.tanh(x)
    return TANH_A * torch.tanh(TANH_S * x)


def gradient(activation: str | None, grad: Tensor, output: Tensor) -> Tensor:
    """grad * act'(x), where output = act(x)."""
    if activation is None:
        return grad
    if activation == "relu":
        return torch.ops.aten.threshold_backward(grad, output, 0)
    if activation == "sigmoid":
        return grad * (output * (1 - output))
    if activation == "tanh":
        return grad * (1 - output * output)
    t = output / TANH_A
    return grad * (TANH_A * TANH_S * (1 - t * t))
