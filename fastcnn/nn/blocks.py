"""The blocks of GoogLeNet and ResNet; users find them in fastcnn.nn."""

from typing import Any

import torch
from torch.overrides import has_torch_function

import fastcnn.functional as F
from fastcnn.core.packing import joined
from fastcnn.nn import layers as nn
from fastcnn.ops import batch_norm

SHORTCUTS = ("A", "B", "none")


def norm_relu(norm: torch.nn.Module, relu: torch.nn.Module, input: torch.Tensor) -> torch.Tensor:
    """relu(norm(input)), in training as one kernel where that applies."""
    fused = batch_norm.training_step(norm, input, relu)
    return relu(norm(input)) if fused is None else fused


class ConvBNReLU(torch.nn.Module):
    """A convolution without bias, batch normalisation (eps 0.001) and ReLU, with torchvision's keys.

    y = max(bn(conv(x)), 0)
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = torch.nn.BatchNorm2d(out_channels, eps=0.001)
        self.relu = torch.nn.ReLU(inplace=True)

    def forward(self, input: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        x = self.conv(input)
        return norm_relu(self.bn, self.relu, x) if out is None else torch.clamp_min(self.bn(x), 0, out=out)


class Inception(torch.nn.Module):
    """GoogLeNet's block: four branches side by side, concatenated along the channels.

    y = [conv1x1(x), conv3x3(conv1x1(x)), conv5x5(conv1x1(x)), conv1x1(maxpool3x3(x))], ReLU after every conv

    Without gradients every branch writes straight into its channels of the output: nothing is concatenated. The
    three 1x1 convolutions of the input then run as one, which reads it once: into a tensor that begins with the
    two reductions, and whose other channels are returned.

    Args:
        in_channels: channels of the input.
        ch1x1: channels of the 1x1 branch.
        ch3x3red, ch3x3: channels of the reduction before the 3x3 convolution, and after that convolution.
        ch5x5red, ch5x5: the same for the 5x5 branch.
        pool_proj: channels of the projection after the max-pool.
        batch_norm: torchvision's form: batch normalisation after every convolution, and a 3x3 kernel in the
            place of the 5x5. Its state_dict has torchvision's keys.

    Shapes: (N, in_channels, H, W) to (N, ch1x1 + ch3x3 + ch5x5 + pool_proj, H, W).
    Source: Szegedy et al., "Going Deeper with Convolutions", 2014.

    >>> fastcnn.nn.Inception(192, 64, 96, 128, 16, 32, 32)(torch.randn(2, 192, 28, 28)).shape
    torch.Size([2, 256, 28, 28])
    """

    def __init__(
        self,
        in_channels: int,
        ch1x1: int,
        ch3x3red: int,
        ch3x3: int,
        ch5x5red: int,
        ch5x5: int,
        pool_proj: int,
        *,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.reductions = (ch3x3red, ch5x5red)
        self.branch_channels = (ch1x1, ch3x3, ch5x5, pool_proj)

        def conv(in_channels: int, out_channels: int, kernel_size: int) -> torch.nn.Module:
            padding = kernel_size // 2
            if batch_norm:
                return ConvBNReLU(in_channels, out_channels, kernel_size, padding=padding)
            return nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, activation="relu")

        self.branch1 = conv(in_channels, ch1x1, 1)
        self.branch2 = torch.nn.Sequential(conv(in_channels, ch3x3red, 1), conv(ch3x3red, ch3x3, 3))
        self.branch3 = torch.nn.Sequential(
            conv(in_channels, ch5x5red, 1), conv(ch5x5red, ch5x5, 3 if batch_norm else 5)
        )
        self.branch4 = torch.nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv(in_channels, pool_proj, 1))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        # Gradients, tracing, torch.compile and autocast need new tensors, not writes into a prepared one.
        if (
            torch.is_grad_enabled()
            or has_torch_function((input,))
            or torch.compiler.is_compiling()
            or F._autocasts(input)
        ):
            branches = (self.branch1, self.branch2, self.branch3, self.branch4)
            return F.concat([branch(input) for branch in branches])
        if input.dim() != 4:
            raise ValueError(f"Inception: input has shape {tuple(input.shape)}, expected (N, C, H, W)")
        reduce3, conv3 = self.branch2
        reduce5, conv5 = self.branch3
        pool, projection = self.branch4
        entry: tuple[Any, ...] = (reduce3, reduce5, self.branch1)
        merged = all(map(_is_plain, entry)) and not torch.nn.modules.module._has_any_global_hook()
        widths = (*self.reductions, *self.branch_channels) if merged else self.branch_channels
        N, _, H, W = input.shape
        wide = torch.empty(
            (N, sum(widths), H, W), dtype=input.dtype, device=input.device, memory_format=torch.channels_last
        )
        *reduced, out1, out3, out5, out_pool = wide.split(widths, dim=1)
        if merged:
            first = sum(widths[:3])
            weight, bias = joined(tuple(conv.weight for conv in entry)), joined(tuple(conv.bias for conv in entry))
            F.conv2d(input, weight, bias, activation="relu", out=wide[:, :first])
        else:
            self.branch1(input, out=out1)
            reduced = [reduce3(input), reduce5(input)]
        conv3(reduced[0], out=out3)
        conv5(reduced[1], out=out5)
        projection(pool(input), out=out_pool)
        return wide[:, sum(self.reductions) :] if merged else wide


def _is_plain(conv: torch.nn.Module) -> bool:
    """Whether nothing but the weights of a 1x1 convolution of Inception's matters: no other class, no hook."""
    return (
        type(conv) is nn.Conv2d
        and (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
        and conv.activation == "relu"
        and conv.bias is not None
        and not (conv._forward_hooks or conv._forward_pre_hooks)
    )


class PadShortcut(torch.nn.Module):
    """ResNet's option A: every stride-th pixel, and zeros in the new channels; no parameters.

    y[n, c, p, q] = x[n, c, p * stride, q * stride] for c < in_channels, else 0
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = out_channels - in_channels, stride

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = input[:, :, :: self.stride, :: self.stride]
        return torch.nn.functional.pad(x, (0, 0, 0, 0, 0, self.extra))


class _ResidualBlock(torch.nn.Module):
    expansion = 1
    downsample: torch.nn.Module | None

    def __init__(self, shortcut: str) -> None:
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise ValueError(f"{type(self).__name__}: unknown shortcut {shortcut!r}, expected one of {SHORTCUTS}")
        self.shortcut = shortcut
        self.relu = torch.nn.ReLU(inplace=True)
        self.add_relu = nn.AddReLU()

    def _make_downsample(self, in_channels: int, out_channels: int, stride: int) -> torch.nn.Module | None:
        if self.shortcut == "none" or (stride == 1 and in_channels == out_channels):
            return None
        if self.shortcut == "A":
            return PadShortcut(in_channels, out_channels, stride)
        projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        return torch.nn.Sequential(projection, torch.nn.BatchNorm2d(out_channels))

    def join(self, norm: torch.nn.Module, x: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
        """relu(norm(x) + shortcut(input)), or relu(norm(x)) in a plain net."""
        if self.shortcut == "none":
            return norm_relu(norm, self.relu, x)
        if norm.training:
            shortcut = self._project(input)
            fused = batch_norm.training_step(norm, x, self.add_relu, shortcut)
            return self.add_relu(norm(x), shortcut) if fused is None else fused
        return self.add_relu(norm(x), input if self.downsample is None else self.downsample(input))

    def _project(self, input: torch.Tensor) -> torch.Tensor:
        if self.downsample is None:
            return input
        if not isinstance(self.downsample, torch.nn.Sequential) or not batch_norm.is_plain(self.downsample):
            return self.downsample(input)
        projection, norm = self.downsample
        x = projection(input)
        fused = batch_norm.training_step(norm, x)
        return norm(x) if fused is None else fused


class BasicBlock(_ResidualBlock):
    """ResNet's block of two 3x3 convolutions.

    y = relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))

    Args:
        in_channels: channels of the input.
        channels: channels of both convolutions and of the output.
        stride: stride of the first convolution and of the shortcut.
        shortcut: what joins input and output where their shapes differ: "A" (strided, zero-padded, no
            parameters) or "B" (a 1x1 convolution with batch normalisation); the identity elsewhere.
            "none": no shortcut anywhere, the plain net's block.

    Shapes: (N, in_channels, H, W) to (N, channels, ceil(H / stride), ceil(W / stride)).
    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015.

    >>> fastcnn.nn.BasicBlock(64, 128, stride=2)(torch.randn(2, 64, 28, 28)).shape
    torch.Size([2, 128, 14, 14])
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: str = "B") -> None:
        super().__init__(shortcut)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(channels)
        self.downsample = self._make_downsample(in_channels, channels, stride)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = norm_relu(self.bn1, self.relu, self.conv1(input))
        return self.join(self.bn2, self.conv2(x), input)


class Bottleneck(_ResidualBlock):
    """ResNet's block of a 1x1, a 3x3 and a 1x1 convolution with four times the channels.

    y = relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut(x))

    The stride is the 3x3 convolution's, as in torchvision; the paper has it in the first 1x1, which skips
    three quarters of the input's pixels.

    Args:
        in_channels: channels of the input.
        channels: channels of the first two convolutions; the output has four times as many.
        stride: stride of the 3x3 convolution and of the shortcut.
        shortcut: "A", "B" or "none", as in :class:`BasicBlock`.

    Shapes: (N, in_channels, H, W) to (N, 4 * channels, ceil(H / stride), ceil(W / stride)).
    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015.

    >>> fastcnn.nn.Bottleneck(256, 64)(torch.randn(2, 256, 14, 14)).shape
    torch.Size([2, 256, 14, 14])
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: str = "B") -> None:
        super().__init__(shortcut)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = torch.nn.BatchNorm2d(channels * self.expansion)
        self.downsample = self._make_downsample(in_channels, channels * self.expansion, stride)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = norm_relu(self.bn1, self.relu, self.conv1(input))
        x = norm_relu(self.bn2, self.relu, self.conv2(x))
        return self.join(self.bn3, self.conv3(x), input)
