"""GoogLeNet: the paper's network, and torchvision's with batch normalisation.

Source: Szegedy et al., "Going Deeper with Convolutions", 2014.
"""

from typing import NamedTuple, cast

import torch

from fastcnn import nn
from fastcnn.models._arguments import check_num_classes, check_variant
from fastcnn.models._network import Network
from fastcnn.models._weights import PathLike, State, load_weights
from fastcnn.nn.blocks import ConvBNReLU, Inception

VARIANTS = ("paper", "torchvision")
AUX_LOSS_WEIGHT = 0.3
# Table 1 of the paper: the arguments of each Inception block.
INCEPTIONS = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


class GoogLeNetOutputs(NamedTuple):
    """What GoogLeNet returns in training: the logits, and those of the auxiliary heads on 4d and 4a."""

    logits: torch.Tensor
    aux_logits2: torch.Tensor
    aux_logits1: torch.Tensor


def googlenet_loss(output: torch.Tensor | GoogLeNetOutputs, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy, plus 0.3 times that of each auxiliary head where there are any.

    E = CE(logits) + 0.3 * (CE(aux_logits1) + CE(aux_logits2))
    """
    loss = torch.nn.functional.cross_entropy
    if isinstance(output, torch.Tensor):
        return loss(output, target)
    auxiliary = loss(output.aux_logits1, target) + loss(output.aux_logits2, target)
    return loss(output.logits, target) + AUX_LOSS_WEIGHT * auxiliary


class AuxiliaryHead(torch.nn.Module):
    """A small classifier on an inner feature map, which brings gradients to the layers below in training.

    The paper averages 5x5 windows at stride 3, torchvision averages to 4x4: from 14x14 both give 4x4.
    """

    def __init__(self, in_channels: int, num_classes: int, *, batch_norm: bool) -> None:
        super().__init__()
        if batch_norm:
            self.pool: torch.nn.Module = nn.AdaptiveAvgPool2d((4, 4))
            self.conv: torch.nn.Module = ConvBNReLU(in_channels, 128, 1)
        else:
            self.pool = nn.AvgPool2d(5, stride=3)
            self.conv = nn.Conv2d(in_channels, 128, 1, activation="relu")
        self.fc1 = nn.Linear(128 * 4 * 4, 1024, activation="relu")
        self.dropout = torch.nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(self.conv(self.pool(input)), 1)
        return self.fc2(self.dropout(self.fc1(x)))


class GoogLeNet(Network):
    """GoogLeNet: (N, 3, H, W), 224x224 in the paper, to (N, num_classes) logits.

    variant "paper": no batch normalisation, local response normalisation after the first max-pool and before
    the second, 5x5 branches, dropout 0.4.
    variant "torchvision": batch normalisation, 3x3 kernels in the place of the 5x5, dropout 0.2, and
    torchvision's keys.

    In training mode, with `aux_logits`, it returns :class:`GoogLeNetOutputs`.
    """

    head = "fc"

    def __init__(
        self,
        variant: str = "paper",
        num_classes: int = 1000,
        aux_logits: bool = True,
        transform_input: bool = False,
    ) -> None:
        super().__init__()
        self.variant = check_variant("googlenet", variant, VARIANTS)
        self.num_classes = check_num_classes("googlenet", num_classes)
        self.transform_input = transform_input
        bn = variant == "torchvision"

        def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> torch.nn.Module:
            padding = kernel_size // 2
            if bn:
                return ConvBNReLU(in_channels, out_channels, kernel_size, stride, padding)
            return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, activation="relu")

        def norm() -> torch.nn.Module:
            return torch.nn.Identity() if bn else nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)

        self.conv1 = conv(3, 64, 7, stride=2)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.norm1 = norm()
        self.conv2 = conv(64, 64, 1)
        self.conv3 = conv(64, 192, 3)
        self.norm2 = norm()
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)

        self.inception3a = Inception(*INCEPTIONS["3a"], batch_norm=bn)
        self.inception3b = Inception(*INCEPTIONS["3b"], batch_norm=bn)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)

        self.inception4a = Inception(*INCEPTIONS["4a"], batch_norm=bn)
        self.inception4b = Inception(*INCEPTIONS["4b"], batch_norm=bn)
        self.inception4c = Inception(*INCEPTIONS["4c"], batch_norm=bn)
        self.inception4d = Inception(*INCEPTIONS["4d"], batch_norm=bn)
        self.inception4e = Inception(*INCEPTIONS["4e"], batch_norm=bn)
        self.maxpool4 = nn.MaxPool2d(2 if bn else 3, stride=2, ceil_mode=True)

        self.inception5a = Inception(*INCEPTIONS["5a"], batch_norm=bn)
        self.inception5b = Inception(*INCEPTIONS["5b"], batch_norm=bn)

        self.aux1 = AuxiliaryHead(512, num_classes, batch_norm=bn) if aux_logits else None
        self.aux2 = AuxiliaryHead(528, num_classes, batch_norm=bn) if aux_logits else None
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = torch.nn.Dropout(0.2 if bn else 0.4)
        self.fc = nn.Linear(1024, num_classes)
        self._initialise()

    def forward(self, input: torch.Tensor) -> torch.Tensor | GoogLeNetOutputs:
        """(N, 3, H, W) to logits (N, num_classes), or in training to GoogLeNetOutputs."""
        at_4a, at_4d, features = self._maps(input)
        logits = self.forward_head(features)
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return GoogLeNetOutputs(logits, self.aux2(at_4d), self.aux1(at_4a))
        return logits

    def adapt_state_dict(self, state: State) -> State:
        """Without auxiliary heads, those of a file are passed over."""
        return state if self.aux1 is not None else {k: v for k, v in state.items() if not k.startswith("aux")}

    def _maps(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """After blocks 4a, 4d and 5b."""
        x = _imagenet_to_half(input) if self.transform_input else input
        x = self.norm1(self.maxpool1(self.conv1(x)))
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(x))))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        at_4a = self.inception4a(x)
        at_4d = self.inception4d(self.inception4c(self.inception4b(at_4a)))
        x = self.maxpool4(self.inception4e(at_4d))
        return at_4a, at_4d, self.inception5b(self.inception5a(x))

    def forward_features(self, input: torch.Tensor) -> torch.Tensor:
        return self._maps(input)[2]

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.dropout(torch.flatten(self.avgpool(features), 1))
        return x if pre_logits else self.fc(x)

    def reset_classifier(self, num_classes: int) -> None:
        super().reset_classifier(num_classes)
        if num_classes == 0:
            self.aux1 = self.aux2 = None
        for head in filter(None, (self.aux1, self.aux2)):
            head.fc2 = nn.Linear(1024, num_classes, device=head.fc2.weight.device, dtype=head.fc2.weight.dtype)

    def stages(self) -> list[list[torch.nn.Module]]:
        if self.transform_input:
            raise ValueError("features_only: googlenet's transform_input is no layer; give it pictures of mean .5")
        at_4 = [self.inception4a, self.inception4b, self.inception4c, self.inception4d, self.inception4e]
        return [
            [self.conv1],
            [self.maxpool1, self.norm1, self.conv2, self.conv3, self.norm2],
            [self.maxpool2, self.inception3a, self.inception3b],
            [self.maxpool3, *at_4],
            [self.maxpool4, self.inception5a, self.inception5b],
        ]

    def _initialise(self) -> None:
        for module in self.modules():
            if not isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                continue
            if self.variant == "torchvision":
                torch.nn.init.trunc_normal_(module.weight, std=0.01)
            else:
                # The paper gives no rule. Glorot's, with the small positive biases of the published models,
                # keeps 22 layers without normalisation alive; 0.01 everywhere would let the signal vanish.
                torch.nn.init.xavier_uniform_(module.weight)
                is_conv = isinstance(module, torch.nn.Conv2d)
                torch.nn.init.constant_(cast(torch.Tensor, module.bias), 0.2 if is_conv else 0.0)


def _imagenet_to_half(input: torch.Tensor) -> torch.Tensor:
    # From ImageNet's mean and deviation to 0.5 and 0.5, which torchvision's published weights were made for.
    deviation = input.new_tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    mean = input.new_tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    return input * (deviation / 0.5) + (mean - 0.5) / 0.5


def googlenet(
    variant: str = "paper",
    num_classes: int = 1000,
    weights: PathLike | None = None,
    *,
    aux_logits: bool = True,
    transform_input: bool = False,
) -> GoogLeNet:
    """GoogLeNet on 3x224x224 pictures.

    Args:
        variant: "paper" (6,998,552 parameters at 1,000 classes, 13,378,280 with the auxiliary heads) or
            "torchvision" (6,624,904 and 13,004,888).
        num_classes: classes.
        weights: a .safetensors or .pth file; torchvision's files fit variant "torchvision".
        aux_logits: build the auxiliary heads; without them their weights in a file are passed over.
        transform_input: undo ImageNet's normalisation in favour of mean and deviation 0.5; torchvision's
            published weights expect it.

    Raises:
        ValueError: an unknown variant, or weights that do not fit.
    """
    model = GoogLeNet(variant, num_classes, aux_logits, transform_input)
    return load_weights(model, weights)
