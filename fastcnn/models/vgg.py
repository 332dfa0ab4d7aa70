"""VGG: configurations A, A-LRN, B, C, D and E, training from a shallow net, and dense evaluation.

Source: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import cast

import torch

from fastcnn import nn
from fastcnn.models._arguments import check_num_classes, check_variant
from fastcnn.models._network import Network, split_before
from fastcnn.models._weights import PathLike, State, load_weights

STAGE_CHANNELS = (64, 128, 256, 512, 512)

# Table 1 of the paper: the kernel sizes of each stage's convolutions. A 2x2 max-pool closes every stage.
CONFIGURATIONS = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "A-LRN": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}


def _features(variant: str, batch_norm: bool) -> torch.nn.Sequential:
    layers: OrderedDict[str, torch.nn.Module] = OrderedDict()
    number = 0  # counts torchvision's layers, whose ReLU has a number of its own
    in_channels = 3
    for channels, kernels in zip(STAGE_CHANNELS, CONFIGURATIONS[variant], strict=True):
        for kernel in kernels:
            activation = None if batch_norm else "relu"
            layers[str(number)] = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, activation=activation)
            if batch_norm:
                layers[str(number + 1)] = torch.nn.BatchNorm2d(channels)
                layers[str(number + 2)] = torch.nn.ReLU(inplace=True)
            number += 3 if batch_norm else 2
            if variant == "A-LRN" and in_channels == 3:
                layers["norm"] = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)
            in_channels = channels
        layers[str(number)] = nn.MaxPool2d(2)
        number += 1
    return torch.nn.Sequential(layers)


class VGG(Network):
    """VGG in one of the configurations of the paper: (N, 3, H, W) to (N, num_classes) logits.

    At 224x224 the last feature maps are 7x7, as the paper has it; other sizes from 32 on are averaged to
    7x7 (:func:`to_dense` evaluates them as the paper does). Keys are torchvision's for A, B, D and E, with
    and without batch normalisation; A-LRN has A's and C has D's.
    """

    head = "classifier.6"

    def __init__(self, variant: str = "D", num_classes: int = 1000, batch_norm: bool = False) -> None:
        super().__init__()
        self.variant = check_variant("vgg", variant, tuple(CONFIGURATIONS))
        self.num_classes = check_num_classes("vgg", num_classes)
        self.features = _features(variant, batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = torch.nn.Sequential(
            OrderedDict(
                {
                    "0": nn.Linear(512 * 7 * 7, 4096, activation="relu"),
                    "2": torch.nn.Dropout(0.5),
                    "3": nn.Linear(4096, 4096, activation="relu"),
                    "5": torch.nn.Dropout(0.5),
                    "6": nn.Linear(4096, num_classes),
                }
            )
        )
        for module in self.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                torch.nn.init.zeros_(cast(torch.Tensor, module.bias))
            elif isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, 0.0, 0.01)
                torch.nn.init.zeros_(cast(torch.Tensor, module.bias))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, num_classes) logits."""
        return self.forward_head(self.forward_features(input))

    def forward_features(self, input: torch.Tensor) -> torch.Tensor:
        return self.features(input)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = torch.flatten(self.avgpool(features), 1)
        return self.classifier[:-1](x) if pre_logits else self.classifier(x)

    def adapt_state_dict(self, state: State) -> State:
        """timm keeps the first two linear layers as convolutions, under names of their own."""
        if "pre_logits.fc1.weight" not in state:
            return state
        names = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
        adapted = {}
        for key, value in state.items():
            layer, _, kind = key.rpartition(".")
            adapted[f"{names.get(layer, layer)}.{kind}"] = (
                value.flatten(1) if value.dim() > 1 and layer in names else value
            )
        return adapted

    def stages(self) -> list[list[torch.nn.Module]]:
        return split_before(self.features, nn.MaxPool2d)

    def named_convs(self) -> Iterator[tuple[str, torch.nn.Conv2d]]:
        """The convolutions by the paper's names: conv1_1, conv1_2, conv2_1, ..."""
        stages = CONFIGURATIONS[self.variant]
        names = (f"conv{stage}_{i}" for stage, k in enumerate(stages, 1) for i in range(1, len(k) + 1))
        convs = (module for module in self.features if isinstance(module, torch.nn.Conv2d))
        return zip(names, convs, strict=True)


@torch.no_grad()
def initialise_from_shallow(deep: VGG, shallow: VGG) -> None:
    """Copies configuration A's first four convolutions and its three linear layers into a deeper net.

    Section 3.1 of the paper: the deeper nets start from a trained A and their other layers at random.
    A's first four convolutions are conv1_1, conv2_1, conv3_1 and conv3_2; each goes to the layer of that
    name. Batch normalisation is not copied.

    Raises:
        ValueError: `shallow` is neither A nor A-LRN, or the two have different numbers of classes.
    """
    if shallow.variant not in ("A", "A-LRN"):
        raise ValueError(f"initialise_from_shallow: shallow is VGG {shallow.variant}, expected A or A-LRN")
    if shallow.num_classes != deep.num_classes:
        raise ValueError(
            f"initialise_from_shallow: shallow has {shallow.num_classes} classes, deep has {deep.num_classes}; "
            "they must have as many"
        )
    convs = dict(deep.named_convs())
    pairs: list[tuple[torch.nn.Module, torch.nn.Module]] = []
    for name, conv in list(shallow.named_convs())[:4]:
        pairs.append((convs[name], conv))
    for key in ("0", "3", "6"):
        pairs.append((deep.classifier.get_submodule(key), shallow.classifier.get_submodule(key)))
    for to, from_ in pairs:
        to.load_state_dict(from_.state_dict())


class DenseVGG(torch.nn.Module):
    """VGG as a fully convolutional net: (N, 3, H, W) to (N, num_classes, H // 32 - 6, W // 32 - 6) scores.

    The linear layers become a 7x7 and two 1x1 convolutions (section 3.2 of the paper), so that a picture of
    any size from 224 on is scored at every position of the 7x7 window in one pass. It shares its features
    with the net it was made from; the linear layers' weights are copied.
    """

    def __init__(self, vgg: VGG) -> None:
        super().__init__()
        self.features = vgg.features
        fc6, fc7, fc8 = (cast(torch.nn.Linear, vgg.classifier.get_submodule(key)) for key in "036")
        self.classifier = torch.nn.Sequential(
            OrderedDict(
                fc6=_as_conv(fc6, 7, "relu"),
                drop6=torch.nn.Dropout(0.5),
                fc7=_as_conv(fc7, 1, "relu"),
                drop7=torch.nn.Dropout(0.5),
                fc8=_as_conv(fc8, 1, None),
            )
        )
        self.train(vgg.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W), H and W at least 224, to a map of class scores."""
        return self.classifier(self.features(input))

    def evaluate(
        self,
        input: torch.Tensor,
        scales: Sequence[int] = (256, 384, 512),
        flip: bool = True,
        softmax: bool = False,
    ) -> torch.Tensor:
        """Class scores averaged over positions, scales and the horizontal flip: (N, num_classes).

        Args:
            input: (N, 3, H, W); each scale resizes its shorter side.
            scales: the sizes of the shorter side, each at least 224.
            flip: score the mirrored pictures too.
            softmax: average probabilities over scales and flip, as the paper does; each is the softmax of
                the scores averaged over positions.

        Raises:
            ValueError: input is not 4-dimensional, scales is empty, or a scale is below 224.
        """
        if input.dim() != 4:
            raise ValueError(f"evaluate: input has shape {tuple(input.shape)}, expected (N, 3, H, W)")
        if not scales or min(scales) < 224:
            raise ValueError(f"evaluate: scales is {tuple(scales)}, expected sizes of at least 224")
        scores = []
        for scale in scales:
            resized = _resize_shorter_side(input, scale)
            for view in (resized, resized.flip(3)) if flip else (resized,):
                mean = self(view).mean((2, 3))
                scores.append(mean.softmax(1) if softmax else mean)
        return torch.stack(scores).mean(0)


def to_dense(vgg: VGG) -> DenseVGG:
    """The net with its linear layers as convolutions, for pictures of any size from 224 on."""
    return DenseVGG(vgg)


@torch.no_grad()
def _as_conv(linear: torch.nn.Linear, kernel_size: int, activation: str | None) -> nn.Conv2d:
    weight, bias = linear.weight, cast(torch.Tensor, linear.bias)
    in_channels = weight.shape[1] // kernel_size**2
    conv = nn.Conv2d(
        in_channels,
        weight.shape[0],
        kernel_size,
        activation=activation,
        device=weight.device,
        dtype=weight.dtype,
    )
    conv.weight.copy_(weight.view_as(conv.weight))
    cast(torch.Tensor, conv.bias).copy_(bias)
    return conv


def _resize_shorter_side(input: torch.Tensor, size: int) -> torch.Tensor:
    height, width = input.shape[2:]
    shorter = min(height, width)
    if shorter == size:
        return input
    target = [round(height * size / shorter), round(width * size / shorter)]
    return torch.nn.functional.interpolate(input, target, mode="bilinear", align_corners=False, antialias=True)


def _build(
    name: str, variants: tuple[str, ...], variant: str, num_classes: int, weights: PathLike | None, bn: bool
) -> VGG:
    check_variant(name, variant, variants)
    return load_weights(VGG(variant, check_num_classes(name, num_classes), bn), weights)


def vgg11(variant: str = "A", num_classes: int = 1000, weights: PathLike | None = None) -> VGG:
    """VGG with 11 weight layers: variant "A" (132,863,336 parameters), or "A-LRN" (as many)."""
    return _build("vgg11", ("A", "A-LRN"), variant, num_classes, weights, bn=False)


def vgg13(variant: str = "B", num_classes: int = 1000, weights: PathLike | None = None) -> VGG:
    """VGG with 13 weight layers: variant "B" (133,047,848 parameters)."""
    return _build("vgg13", ("B",), variant, num_classes, weights, bn=False)


def vgg16(variant: str = "D", num_classes: int = 1000, weights: PathLike | None = None) -> VGG:
    """VGG with 16 weight layers: variant "D" (138,357,544 parameters), or "C" with three 1x1 (133,638,952)."""
    return _build("vgg16", ("D", "C"), variant, num_classes, weights, bn=False)


def vgg19(variant: str = "E", num_classes: int = 1000, weights: PathLike | None = None) -> VGG:
    """VGG with 19 weight layers: variant "E" (143,667,240 parameters)."""
    return _build("vgg19", ("E",), variant, num_classes, weights, bn=False)


def vgg11_bn(variant: str = "A", num_classes: int = 1000, weights: PathLike | None = None) -> VGG:
    """VGG-11 with batch normalisation (132,868,840 parameters)."""
    return _build("vgg11_bn", ("A",), variant, num_classes, weights, bn=True)


def vgg13_bn(variant: str = "B", num_classes: int = 1000, weights: PathLike | None = None) -> VGG:
    """VGG-13 with batch normalisation (133,053,736 parameters)."""
    return _build("vgg13_bn", ("B",), variant, num_classes, weights, bn=True)


def vgg16_bn(variant: str = "D", num_classes: int = 1000, weights: PathLike | None = None) -> VGG:
    """VGG-16 with batch normalisation (138,365,992 parameters)."""
    return _build("vgg16_bn", ("D",), variant, num_classes, weights, bn=True)


def vgg19_bn(variant: str = "E", num_classes: int = 1000, weights: PathLike | None = None) -> VGG:
    """VGG-19 with batch normalisation (143,678,248 parameters)."""
    return _build("vgg19_bn", ("E",), variant, num_classes, weights, bn=True)
