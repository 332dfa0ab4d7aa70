"""Networks by name, in timm's way: `list_models`, `create_model`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from fastcnn.models import resnet, vgg
from fastcnn.models._network import FeatureNet, Network, first_convolution
from fastcnn.models._weights import LoadReport, PathLike, State, compare, fill, read_state_dict
from fastcnn.models.alexnet import VARIANTS as ALEXNETS
from fastcnn.models.alexnet import alexnet
from fastcnn.models.googlenet import VARIANTS as GOOGLENETS
from fastcnn.models.googlenet import googlenet
from fastcnn.models.lenet import VARIANTS as LENETS
from fastcnn.models.lenet import lenet5

_log = logging.getLogger("fastcnn")

# name: builder and its variants, the default first
_BUILDERS: dict[str, tuple[Callable[..., Network], tuple[str, ...]]] = {
    "lenet5": (lenet5, LENETS),
    "alexnet": (alexnet, ALEXNETS),
    "vgg11": (vgg.vgg11, ("A", "A-LRN")),
    "vgg13": (vgg.vgg13, ("B",)),
    "vgg16": (vgg.vgg16, ("D", "C")),
    "vgg19": (vgg.vgg19, ("E",)),
    "vgg11_bn": (vgg.vgg11_bn, ("A",)),
    "vgg13_bn": (vgg.vgg13_bn, ("B",)),
    "vgg16_bn": (vgg.vgg16_bn, ("D",)),
    "vgg19_bn": (vgg.vgg19_bn, ("E",)),
    "googlenet": (googlenet, GOOGLENETS),
    **{f"resnet{depth}": (getattr(resnet, f"resnet{depth}"), ("B", "A")) for depth in (18, 34, 50, 101, 152)},
    **{f"plain{depth}": (getattr(resnet, f"plain{depth}"), ("none",)) for depth in (18, 34, 50, 101, 152)},
    **{f"resnet{n}_cifar": (getattr(resnet, f"resnet{n}_cifar"), ("A", "B")) for n in (20, 32, 44, 56, 110, 1202)},
    **{f"plain{n}_cifar": (getattr(resnet, f"plain{n}_cifar"), ("none",)) for n in (20, 32, 44, 56, 110, 1202)},
}


def list_models(filter: str | Sequence[str] = "*") -> list[str]:
    """The names that :func:`create_model` builds, those alone that match a pattern: ``list_models("resnet*")``."""
    patterns = (filter,) if isinstance(filter, str) else filter
    return [name for name in _BUILDERS if any(fnmatchcase(name, pattern) for pattern in patterns)]


def create_model(
    name: str,
    *,
    variant: str | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    drop_rate: float | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    weights: PathLike | None = None,
    new_head: bool = False,
    strict: bool = True,
    **own: Any,
) -> Network | FeatureNet:
    """Builds the network called `name`: ``create_model("resnet50", num_classes=10)``.

    Args:
        name: one of :func:`list_models`.
        variant: the network's default, or the one that `weights` fit.
        num_classes: the network's default, or that of `weights`; 0 leaves out the last layer, so that the network
            returns what it read: a vector a picture.
        in_chans: channels of a picture; the first layer is rebuilt from the weights for 3 (1 for LeNet-5), see
            :meth:`Network.set_input_channels`.
        drop_rate: of the dropouts before the last layer; the network's own if None.
        features_only: a :class:`FeatureNet`, which returns the maps of the stages `out_indices` (all if None).
        weights: a file (.safetensors, .pth, .pt or .bin) with torchvision's, timm's or this library's names. What was
            found is said by the logger "fastcnn" and kept as the network's `load_report`.
        new_head: the last layer is made anew for num_classes where the file has another number of them. Without it a
            different number is an error, because a network at random there looks as if it worked.
        strict: False loads what fits and leaves the rest at random; `load_report` lists it, the logger warns.
        own: further arguments of the builder, such as GoogLeNet's aux_logits.

    Raises:
        ValueError: an unknown name, variant or index, weights that do not fit, an argument out of range.
        TypeError: an argument that the builder does not know.
        FileNotFoundError: no such file.
    """
    if name not in _BUILDERS:
        close = list_models(f"{name.rstrip('0123456789')}*")
        raise ValueError(f"create_model: unknown model {name!r}, expected one of {', '.join(close or _BUILDERS)}")
    if out_indices is not None and not features_only:
        raise ValueError("create_model: out_indices belongs to features_only=True")
    build, variants = _BUILDERS[name]
    _check_own(name, build, own)
    if weights is None:
        arguments = {"variant": variant, "num_classes": num_classes or None} | own
        network = build(**{key: value for key, value in arguments.items() if value is not None})
    else:
        network = _load(name, (variant,) if variant else variants, weights, strict, own)
        classes = network.num_classes
        if num_classes and num_classes != classes:
            if not new_head:
                raise ValueError(
                    f"create_model: {weights} has {classes} classes, num_classes is {num_classes}; "
                    f"new_head=True makes a new last layer, leaving num_classes out keeps the {classes}"
                )
            network.reset_classifier(num_classes)
    if num_classes == 0:
        network.reset_classifier(0)
    if in_chans is not None:
        network.set_input_channels(in_chans)
    if drop_rate is not None:
        network.set_dropout(drop_rate)
    return FeatureNet(network, out_indices) if features_only else network


def get_model(name: str, **arguments: Any) -> torch.nn.Module:
    """:func:`create_model` under torchvision's name for it."""
    return create_model(name, **arguments)


def _check_own(name: str, build: Callable[..., Network], own: dict[str, Any]) -> None:
    known = list(inspect.signature(build).parameters)[3:]  # after variant, num_classes, weights
    for key in own:
        if key not in known:
            names = ", ".join(known) or "none"
            raise TypeError(f"create_model: {name} has no argument {key!r}, of its own it has {names}")


def _load(name: str, variants: Sequence[str], weights: PathLike, strict: bool, own: dict[str, Any]) -> Network:
    """The network in the first variant that the file fits, else in the one that it misses least; filled."""
    state = read_state_dict(weights)
    best: tuple[int, Network, State] | None = None
    for variant in variants:
        candidate = _shaped(name, variant, state, own)
        fitted = candidate.adapt_state_dict(state)
        misses = sum(map(len, compare(candidate, fitted)))
        if best is None or misses < best[0]:
            best = misses, candidate, fitted
    assert best is not None
    _, candidate, fitted = best
    variant = candidate.variant
    missing, left_over, shapes = compare(candidate, fitted)
    report = LoadReport(str(weights), name, variant, candidate.num_classes, missing, left_over, shapes)
    if strict and not report.fits:
        raise ValueError(report.refusal(type(candidate).__name__))
    network = _BUILDERS[name][0](variant=variant, num_classes=candidate.num_classes, **own)
    network.set_input_channels(first_convolution(candidate).in_channels)
    fill(network, fitted)
    network.load_report = report
    _log.log(logging.INFO if report.fits else logging.WARNING, "%s", report)
    return network


def _shaped(name: str, variant: str, state: State, own: dict[str, Any]) -> Network:
    """The network without memory for its weights, with as many classes and input channels as a file has."""
    with torch.device("meta"):
        network = _BUILDERS[name][0](variant=variant, **own)
        fitted = network.adapt_state_dict(state)
        first = next(key for key, module in network.named_modules() if module is first_convolution(network))
        conv, head = fitted.get(f"{first}.weight"), fitted.get(f"{network.head}.weight")
        ours = network.state_dict().get(f"{network.head}.weight")
        if head is not None and ours is not None and head.dim() == 2 and head.shape != ours.shape:
            network.reset_classifier(head.shape[0])
        if conv is not None and conv.dim() == 4:
            network.set_input_channels(conv.shape[1])
    return network
