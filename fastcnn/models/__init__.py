"""The five networks, in every variant: LeNet-5, AlexNet, VGG, GoogLeNet and ResNet.

Every builder takes ``variant``, ``num_classes`` and ``weights`` (a .safetensors or .pth file of yours).
"""

from collections.abc import Callable
from typing import Any

import torch

from fastcnn.models.alexnet import AlexNet, alexnet
from fastcnn.models.googlenet import GoogLeNet, GoogLeNetOutputs, googlenet, googlenet_loss
from fastcnn.models.lenet import LeNet5, lenet5, map_loss, right_class_loss
from fastcnn.models.resnet import (
    CifarResNet,
    ResNet,
    plain18,
    plain20_cifar,
    plain32_cifar,
    plain34,
    plain44_cifar,
    plain50,
    plain56_cifar,
    plain101,
    plain110_cifar,
    plain152,
    plain1202_cifar,
    resnet18,
    resnet20_cifar,
    resnet32_cifar,
    resnet34,
    resnet44_cifar,
    resnet50,
    resnet56_cifar,
    resnet101,
    resnet110_cifar,
    resnet152,
    resnet1202_cifar,
)
from fastcnn.models.vgg import (
    VGG,
    DenseVGG,
    initialise_from_shallow,
    to_dense,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)

_BUILDERS: dict[str, Callable[..., torch.nn.Module]] = {
    builder.__name__: builder
    for builder in (
        lenet5,
        alexnet,
        vgg11,
        vgg13,
        vgg16,
        vgg19,
        vgg11_bn,
        vgg13_bn,
        vgg16_bn,
        vgg19_bn,
        googlenet,
        resnet18,
        resnet34,
        resnet50,
        resnet101,
        resnet152,
        plain18,
        plain34,
        plain50,
        plain101,
        plain152,
        resnet20_cifar,
        resnet32_cifar,
        resnet44_cifar,
        resnet56_cifar,
        resnet110_cifar,
        resnet1202_cifar,
        plain20_cifar,
        plain32_cifar,
        plain44_cifar,
        plain56_cifar,
        plain110_cifar,
        plain1202_cifar,
    )
}


def list_models() -> list[str]:
    """The names that :func:`get_model` builds."""
    return list(_BUILDERS)


def get_model(name: str, **arguments: Any) -> torch.nn.Module:
    """Builds the network called `name`: ``get_model("resnet50", num_classes=10)``.

    Args:
        name: one of :func:`list_models`.
        arguments: the builder's own: variant, num_classes, weights, ...

    Raises:
        ValueError: there is no such network; the message lists those there are.
    """
    if name not in _BUILDERS:
        raise ValueError(f"get_model: unknown model {name!r}, expected one of {', '.join(_BUILDERS)}")
    return _BUILDERS[name](**arguments)


__all__ = [
    "VGG",
    "AlexNet",
    "CifarResNet",
    "DenseVGG",
    "GoogLeNet",
    "GoogLeNetOutputs",
    "LeNet5",
    "ResNet",
    "get_model",
    "googlenet_loss",
    "initialise_from_shallow",
    "list_models",
    "map_loss",
    "right_class_loss",
    "to_dense",
    *_BUILDERS,
]
