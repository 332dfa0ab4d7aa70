"""AlexNet: the paper's two-group network, torchvision's single column, and the textbook's simplification.

Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
2012; the single column: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
"""

from collections import OrderedDict
from typing import cast

import torch

from fastcnn import nn
from fastcnn.models._arguments import check_num_classes, check_variant
from fastcnn.models._network import Network, split_before
from fastcnn.models._weights import PathLike, load_weights

VARIANTS = ("paper", "torchvision", "textbook")


def _paper_features() -> torch.nn.Sequential:
    # 224 pixels and padding 2 give the 55x55 maps of the paper, which counts 227 pixels and no padding.
    return torch.nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 96, 11, stride=4, padding=2, activation="relu"),
            norm1=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            pool1=nn.MaxPool2d(3, stride=2),
            conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2, activation="relu"),
            norm2=nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            pool2=nn.MaxPool2d(3, stride=2),
            conv3=nn.Conv2d(256, 384, 3, padding=1, activation="relu"),
            conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2, activation="relu"),
            conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2, activation="relu"),
            pool5=nn.MaxPool2d(3, stride=2),
        )
    )


def _textbook_features() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 96, 5, stride=4, padding=2, activation="relu"),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(96, 256, 3, padding=1, groups=2, activation="relu"),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(256, 384, 3, padding=1, activation="relu"),
            conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2, activation="relu"),
            conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2, activation="relu"),
            pool5=nn.MaxPool2d(2),
        )
    )


def _torchvision_features() -> torch.nn.Sequential:
    # The numbers that are left out are torchvision's ReLU layers: here ReLU is part of the convolution.
    return torch.nn.Sequential(
        OrderedDict(
            {
                "0": nn.Conv2d(3, 64, 11, stride=4, padding=2, activation="relu"),
                "2": nn.MaxPool2d(3, stride=2),
                "3": nn.Conv2d(64, 192, 5, padding=2, activation="relu"),
                "5": nn.MaxPool2d(3, stride=2),
                "6": nn.Conv2d(192, 384, 3, padding=1, activation="relu"),
                "8": nn.Conv2d(384, 256, 3, padding=1, activation="relu"),
                "10": nn.Conv2d(256, 256, 3, padding=1, activation="relu"),
                "12": nn.MaxPool2d(3, stride=2),
            }
        )
    )


def _classifier(in_features: int, num_classes: int, names: tuple[str, ...]) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = [
        torch.nn.Dropout(0.5),
        nn.Linear(in_features, 4096, activation="relu"),
        torch.nn.Dropout(0.5),
        nn.Linear(4096, 4096, activation="relu"),
        nn.Linear(4096, num_classes),
    ]
    return torch.nn.Sequential(OrderedDict(zip(names, layers, strict=True)))


class AlexNet(Network):
    """AlexNet in one of its three forms: (N, 3, 224, 224) to (N, num_classes) logits.

    variant "paper": convolutions 2, 4 and 5 in two groups (the paper's two GPUs), local response
    normalisation, overlapping max-pools. The paper's normalisation multiplies its sum of squares by alpha;
    this one, as PyTorch's, by alpha / size.
    variant "torchvision": the single-column network with torchvision's keys; any size from 63 pixels.
    variant "textbook": smaller kernels and plain 2x2 pools, no normalisation, the same two groups.
    """

    def __init__(self, variant: str = "paper", num_classes: int = 1000) -> None:
        super().__init__()
        self.variant = check_variant("alexnet", variant, VARIANTS)
        self.num_classes = check_num_classes("alexnet", num_classes)
        self.head = "classifier.6" if variant == "torchvision" else "classifier.fc8"
        named = ("drop6", "fc6", "drop7", "fc7", "fc8")
        if variant == "torchvision":
            self.features = _torchvision_features()
            self.avgpool: torch.nn.Module = nn.AdaptiveAvgPool2d((6, 6))
            self.classifier = _classifier(256 * 6 * 6, num_classes, ("0", "1", "3", "4", "6"))
        elif variant == "paper":
            self.features = _paper_features()
            self.avgpool = torch.nn.Identity()
            self.classifier = _classifier(256 * 6 * 6, num_classes, named)
        else:
            self.features = _textbook_features()
            self.avgpool = torch.nn.Identity()
            self.classifier = _classifier(256 * 7 * 7, num_classes, named)
        if variant != "torchvision":
            self._initialise()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, 3, 224, 224) to (N, num_classes) logits."""
        return self.forward_head(self.forward_features(input))

    def forward_features(self, input: torch.Tensor) -> torch.Tensor:
        return self.features(input)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = torch.flatten(self.avgpool(features), 1)
        return self.classifier[:-1](x) if pre_logits else self.classifier(x)

    def stages(self) -> list[list[torch.nn.Module]]:
        return split_before(self.features, nn.MaxPool2d)

    @torch.no_grad()
    def _initialise(self) -> None:
        # Section 5 of the paper: N(0, 0.01^2), and biases of 1 where they give the ReLUs positive inputs.
        ones = ("features.conv2", "features.conv4", "features.conv5", "classifier.fc6", "classifier.fc7")
        for name, module in self.named_modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.weight.normal_(0.0, 0.01)
                cast(torch.Tensor, module.bias).fill_(1.0 if name in ones else 0.0)


def alexnet(variant: str = "paper", num_classes: int = 1000, weights: PathLike | None = None) -> AlexNet:
    """AlexNet on 3x224x224 pictures.

    Args:
        variant: "paper" (60,965,224 parameters at 1,000 classes), "torchvision" (61,100,840) or "textbook"
            (74,372,456).
        num_classes: classes.
        weights: a .safetensors or .pth file; torchvision's files fit variant "torchvision".

    Raises:
        ValueError: an unknown variant, or weights that do not fit.
    """
    return load_weights(AlexNet(variant, num_classes), weights)
