"""ResNet for ImageNet and for CIFAR, and the plain nets that show what the shortcuts are for.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015.
"""

from collections.abc import Sequence

import torch

from fastcnn import nn
from fastcnn.models._arguments import check_num_classes, check_variant
from fastcnn.models._network import Network
from fastcnn.models._weights import PathLike, load_weights
from fastcnn.nn.blocks import BasicBlock, Bottleneck, norm_relu

Block = type[BasicBlock] | type[Bottleneck]

LAYERS: dict[int, tuple[Block, tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def _stage(
    block: Block, in_channels: int, channels: int, blocks: int, stride: int, shortcut: str
) -> torch.nn.Sequential:
    first = block(in_channels, channels, stride, shortcut)
    rest = [block(channels * block.expansion, channels, 1, shortcut) for _ in range(blocks - 1)]
    return torch.nn.Sequential(first, *rest)


def _initialise(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class _ResidualNetwork(Network):
    """What both kinds of ResNet share: their head."""

    head = "fc"
    drop_rate = 0.0  # of the dropout before the last layer, which the paper's nets have not
    avgpool: torch.nn.Module
    fc: torch.nn.Module

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, num_classes) logits."""
        return self.forward_head(self.forward_features(input))

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = torch.flatten(self.avgpool(features), 1)
        if self.drop_rate:
            x = torch.nn.functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)


class ResNet(_ResidualNetwork):
    """ResNet for ImageNet: (N, 3, H, W), 224x224 in the paper, to (N, num_classes) logits.

    Keys are torchvision's. `shortcut` is "A", "B" (torchvision's) or "none" (the plain net).
    """

    def __init__(self, block: Block, layers: Sequence[int], num_classes: int = 1000, shortcut: str = "B") -> None:
        super().__init__()
        self.num_classes, self.variant = check_num_classes("resnet", num_classes), shortcut
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(64)
        self.relu = torch.nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        wide = block.expansion
        self.layer1 = _stage(block, 64, 64, layers[0], 1, shortcut)
        self.layer2 = _stage(block, 64 * wide, 128, layers[1], 2, shortcut)
        self.layer3 = _stage(block, 128 * wide, 256, layers[2], 2, shortcut)
        self.layer4 = _stage(block, 256 * wide, 512, layers[3], 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * wide, num_classes)
        _initialise(self)

    def forward_features(self, input: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(norm_relu(self.bn1, self.relu, self.conv1(input)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def stages(self) -> list[list[torch.nn.Module]]:
        stem = [self.conv1, self.bn1, self.relu]
        return [stem, [self.maxpool, self.layer1], [self.layer2], [self.layer3], [self.layer4]]


class CifarResNet(_ResidualNetwork):
    """ResNet for CIFAR (section 4.2 of the paper): (N, 3, 32, 32) to (N, num_classes) logits.

    6n + 2 weight layers: a 3x3 convolution, n basic blocks each of 16, 32 and 64 channels, and one linear
    layer. `shortcut` is "A" (the paper's), "B" or "none" (the plain net).
    """

    def __init__(self, depth: int, num_classes: int = 10, shortcut: str = "A") -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"CifarResNet: depth is {depth}, expected 6n + 2 with n at least 1")
        self.num_classes, self.variant = check_num_classes("resnet_cifar", num_classes), shortcut
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(16)
        self.relu = torch.nn.ReLU(inplace=True)
        self.layer1 = _stage(BasicBlock, 16, 16, blocks, 1, shortcut)
        self.layer2 = _stage(BasicBlock, 16, 32, blocks, 2, shortcut)
        self.layer3 = _stage(BasicBlock, 32, 64, blocks, 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(64, num_classes)
        _initialise(self)

    def forward_features(self, input: torch.Tensor) -> torch.Tensor:
        x = norm_relu(self.bn1, self.relu, self.conv1(input))
        return self.layer3(self.layer2(self.layer1(x)))

    def stages(self) -> list[list[torch.nn.Module]]:
        return [[self.conv1, self.bn1, self.relu, self.layer1], [self.layer2], [self.layer3]]


def _imagenet(depth: int, variant: str, num_classes: int, weights: PathLike | None) -> ResNet:
    check_variant(f"resnet{depth}", variant, ("B", "A"))
    return load_weights(ResNet(*LAYERS[depth], num_classes, shortcut=variant), weights)


def _plain(depth: int, variant: str, num_classes: int, weights: PathLike | None) -> ResNet:
    check_variant(f"plain{depth}", variant, ("none",))
    return load_weights(ResNet(*LAYERS[depth], num_classes, shortcut=variant), weights)


def _cifar(depth: int, variant: str, num_classes: int, weights: PathLike | None) -> CifarResNet:
    check_variant(f"resnet{depth}_cifar", variant, ("A", "B"))
    return load_weights(CifarResNet(depth, num_classes, shortcut=variant), weights)


def _plain_cifar(depth: int, variant: str, num_classes: int, weights: PathLike | None) -> CifarResNet:
    check_variant(f"plain{depth}_cifar", variant, ("none",))
    return load_weights(CifarResNet(depth, num_classes, shortcut=variant), weights)


# variant is the shortcut where shapes change: "A" pads with zeros, "B" projects with a 1x1 convolution.


def resnet18(variant: str = "B", num_classes: int = 1000, weights: PathLike | None = None) -> ResNet:
    """ResNet-18 (11,689,512 parameters with option B)."""
    return _imagenet(18, variant, num_classes, weights)


def resnet34(variant: str = "B", num_classes: int = 1000, weights: PathLike | None = None) -> ResNet:
    """ResNet-34 (21,797,672 parameters with option B)."""
    return _imagenet(34, variant, num_classes, weights)


def resnet50(variant: str = "B", num_classes: int = 1000, weights: PathLike | None = None) -> ResNet:
    """ResNet-50 (25,557,032 parameters with option B)."""
    return _imagenet(50, variant, num_classes, weights)


def resnet101(variant: str = "B", num_classes: int = 1000, weights: PathLike | None = None) -> ResNet:
    """ResNet-101 (44,549,160 parameters with option B)."""
    return _imagenet(101, variant, num_classes, weights)


def resnet152(variant: str = "B", num_classes: int = 1000, weights: PathLike | None = None) -> ResNet:
    """ResNet-152 (60,192,808 parameters with option B)."""
    return _imagenet(152, variant, num_classes, weights)


def plain18(variant: str = "none", num_classes: int = 1000, weights: PathLike | None = None) -> ResNet:
    """ResNet-18 without its shortcuts."""
    return _plain(18, variant, num_classes, weights)


def plain34(variant: str = "none", num_classes: int = 1000, weights: PathLike | None = None) -> ResNet:
    """ResNet-34 without its shortcuts."""
    return _plain(34, variant, num_classes, weights)


def plain50(variant: str = "none", num_classes: int = 1000, weights: PathLike | None = None) -> ResNet:
    """ResNet-50 without its shortcuts."""
    return _plain(50, variant, num_classes, weights)


def plain101(variant: str = "none", num_classes: int = 1000, weights: PathLike | None = None) -> ResNet:
    """ResNet-101 without its shortcuts."""
    return _plain(101, variant, num_classes, weights)


def plain152(variant: str = "none", num_classes: int = 1000, weights: PathLike | None = None) -> ResNet:
    """ResNet-152 without its shortcuts."""
    return _plain(152, variant, num_classes, weights)


def resnet20_cifar(variant: str = "A", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-20 for CIFAR (269,722 parameters with option A)."""
    return _cifar(20, variant, num_classes, weights)


def resnet32_cifar(variant: str = "A", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-32 for CIFAR (464,154 parameters with option A)."""
    return _cifar(32, variant, num_classes, weights)


def resnet44_cifar(variant: str = "A", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-44 for CIFAR (658,586 parameters with option A)."""
    return _cifar(44, variant, num_classes, weights)


def resnet56_cifar(variant: str = "A", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-56 for CIFAR (853,018 parameters with option A)."""
    return _cifar(56, variant, num_classes, weights)


def resnet110_cifar(variant: str = "A", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-110 for CIFAR (1,727,962 parameters with option A)."""
    return _cifar(110, variant, num_classes, weights)


def resnet1202_cifar(variant: str = "A", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-1202 for CIFAR (19,421,274 parameters with option A)."""
    return _cifar(1202, variant, num_classes, weights)


def plain20_cifar(variant: str = "none", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-20 for CIFAR without its shortcuts."""
    return _plain_cifar(20, variant, num_classes, weights)


def plain32_cifar(variant: str = "none", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-32 for CIFAR without its shortcuts."""
    return _plain_cifar(32, variant, num_classes, weights)


def plain44_cifar(variant: str = "none", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-44 for CIFAR without its shortcuts."""
    return _plain_cifar(44, variant, num_classes, weights)


def plain56_cifar(variant: str = "none", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-56 for CIFAR without its shortcuts."""
    return _plain_cifar(56, variant, num_classes, weights)


def plain110_cifar(variant: str = "none", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-110 for CIFAR without its shortcuts."""
    return _plain_cifar(110, variant, num_classes, weights)


def plain1202_cifar(variant: str = "none", num_classes: int = 10, weights: PathLike | None = None) -> CifarResNet:
    """ResNet-1202 for CIFAR without its shortcuts."""
    return _plain_cifar(1202, variant, num_classes, weights)
