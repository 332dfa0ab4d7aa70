"""Layers: drop-ins for their torch.nn namesakes (same constructor, same state_dict), and the fused ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcnn import functional
from fastcnn.core import checks


class _Scriptable:
    """torch.jit.script compiles the PyTorch layer that a layer of ours stands for, with the same parameters."""

    def __prepare_scriptable__(self) -> Any:
        activation = vars(self).get("activation")
        if activation not in (None, *_SCRIPTED):
            return self
        plain: Any = next(base for base in type(self).__mro__ if base.__module__.startswith("torch.nn."))
        layer = plain.__new__(plain)
        vars(layer).update({name: value for name, value in vars(self).items() if name != "activation"})
        return layer if activation is None else nn.Sequential(layer, _SCRIPTED[activation]())


_SCRIPTED = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "silu": nn.SiLU, "hardswish": nn.Hardswish}


class Conv2d(_Scriptable, nn.Conv2d):
    """`torch.nn.Conv2d` with an optional activation, and residual and output slice at the call.

    y = act(conv2d(input, weight) + bias + residual)

    Takes torch.nn.Conv2d's arguments, then `activation` (see `fastcnn.functional.conv2d`).

    >>> conv = fastcnn.nn.Conv2d(3, 8, 3, padding=1, activation="relu")
    >>> y = conv(torch.randn(2, 3, 16, 16))
    >>> again = fastcnn.nn.Conv2d(8, 8, 3, padding=1, activation="relu")(y, residual=y)
    >>> again.shape
    torch.Size([2, 8, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.activation = checks.activation("Conv2d", activation)

    def forward(self, input: Tensor, residual: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        return functional.conv2d(
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups,
            activation=self.activation, residual=residual, out=out,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", activation={self.activation!r}" if self.activation else "")


class Linear(_Scriptable, nn.Linear):
    """`torch.nn.Linear` with an optional activation.

    y = act(input @ weight.T + bias)

    >>> fastcnn.nn.Linear(8, 4, activation="tanh")(torch.randn(2, 8)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.activation = checks.activation("Linear", activation)

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight, self.bias, activation=self.activation)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", activation={self.activation!r}" if self.activation else "")


class LocalResponseNorm(_Scriptable, nn.LocalResponseNorm):
    """`torch.nn.LocalResponseNorm`.

    y[c] = x[c] * (k + alpha/size * sum over the window of x^2)^-beta

    >>> fastcnn.nn.LocalResponseNorm(5, k=2.0)(torch.randn(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.local_response_norm(input, self.size, self.alpha, self.beta, self.k)


class MaxPool2d(_Scriptable, nn.MaxPool2d):
    """`torch.nn.MaxPool2d`.

    y = max over the window

    >>> fastcnn.nn.MaxPool2d(3, stride=2, ceil_mode=True)(torch.randn(2, 8, 8, 8)).shape
    torch.Size([2, 8, 4, 4])
    """

    def forward(self, input: Tensor) -> Any:
        return functional.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )


class AvgPool2d(_Scriptable, nn.AvgPool2d):
    """`torch.nn.AvgPool2d`.

    y = sum over the window / divisor

    >>> fastcnn.nn.AvgPool2d(2)(torch.ones(1, 1, 2, 4))
    tensor([[[[1., 1.]]]])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.avg_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override,
        )  # fmt: skip


class AdaptiveAvgPool2d(_Scriptable, nn.AdaptiveAvgPool2d):
    """`torch.nn.AdaptiveAvgPool2d`.

    y = mean over each of output_size windows that cover the image

    >>> fastcnn.nn.AdaptiveAvgPool2d(1)(torch.randn(2, 8, 7, 5)).shape
    torch.Size([2, 8, 1, 1])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(input, self.output_size)


class Subsample2d(nn.Module):
    """LeNet-5's trainable subsampling: one coefficient and one bias a channel.

    y = act(bias[c] + coefficient[c] * sum over each kernel_size x kernel_size block)

    Args:
        channels: C.
        kernel_size: an int.
        activation: None, or a name that `Conv2d` takes; "scaled_tanh" is the paper's.

    The coefficients start at 1 / kernel_size^2, a plain average, and the biases at 0.

    >>> fastcnn.nn.Subsample2d(6, activation="scaled_tanh")(torch.randn(2, 6, 28, 28)).shape
    torch.Size([2, 6, 14, 14])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 2,
        activation: str | None = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.channels = checks.integer("Subsample2d", "channels", channels, 1)
        self.kernel_size = checks.integer("Subsample2d", "kernel_size", kernel_size, 1)
        self.activation = checks.activation("Subsample2d", activation)
        self.coefficient = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.coefficient, 1 / self.kernel_size**2)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return functional.subsample2d(input, self.coefficient, self.bias, self.kernel_size, activation=self.activation)

    def extra_repr(self) -> str:
        return f"{self.channels}, kernel_size={self.kernel_size}, activation={self.activation!r}"


class RBFOutput(nn.Module):
    """Euclidean radial basis function units with fixed centers.

    y[n,m] = sum_d (input[n,d] - centers[m,d])^2

    Args:
        centers: (classes, features), one prototype a class; a buffer, not trained.

    The predicted class is the unit with the smallest output.

    >>> output = fastcnn.nn.RBFOutput(torch.eye(3))
    >>> output(torch.tensor([[0.0, 0.9, 0.1]])).argmin(1)
    tensor([1])
    """

    centers: Tensor

    def __init__(self, centers: Tensor) -> None:
        super().__init__()
        checks.tensor("RBFOutput", "centers", centers)
        checks.rank("RBFOutput", "centers", centers, (2,))
        self.register_buffer("centers", centers.detach().clone())

    def forward(self, input: Tensor) -> Tensor:
        return functional.rbf(input, self.centers)

    def extra_repr(self) -> str:
        return f"classes={self.centers.shape[0]}, features={self.centers.shape[1]}"


class AddReLU(nn.Module):
    """The residual addition and its ReLU.

    y = max(input + other, 0)

    >>> fastcnn.nn.AddReLU()(torch.ones(1, 1, 1, 2), torch.tensor([[[[1.0, -3.0]]]]))
    tensor([[[[2., 0.]]]])
    """

    def forward(self, input: Tensor, other: Tensor) -> Tensor:
        return functional.add_relu(input, other)


class Concat(nn.Module):
    """The inputs side by side along channels.

    y = [tensors[0], tensors[1], ...] along dimension 1

    >>> fastcnn.nn.Concat()([torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)]).shape
    torch.Size([2, 8, 4, 4])
    """

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        return functional.concat(tensors)
