"""What is done to a picture before the network sees it, by torchvision's transforms where it has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastcnn.workbench.report.classifiers import torchvision_models
from fastcnn.workbench.train import pictures
from fastcnn.workbench.train.settings import Settings

Transform = Callable[[Tensor], Tensor]


def transforms() -> Any:
    """torchvision.transforms.v2. Raises ImportError that says how to get it."""
    try:
        torchvision_models()  # imports a torchvision without compiled operators, too: the transforms need none
        from torchvision.transforms import v2
    except ImportError:
        raise ImportError("train: augmentation needs torchvision: pip install 'fastcnn[train]'") from None
    return v2


class ScaleJitter:
    """VGG's: the shorter side brought to a random length from `low` to `high` pixels; a random square of `size`.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, 3.1.
    """

    def __init__(self, size: int, low: int, high: int) -> None:
        self.low, self.high, self.crop = low, high, transforms().RandomCrop(size)

    def __call__(self, image: Tensor) -> Tensor:
        length = int(torch.randint(self.low, self.high + 1, ()))
        return self.crop(transforms().functional.resize(image, [length], antialias=True))


class Lighting:
    """AlexNet's: image + sum over the colours' principal axes of axis * eigenvalue * N(0, strength).

    axes: (3, 3), an axis a row, times the root of its eigenvalue's square: see `principal_axes`.
    Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Networks", 2012, 4.1.
    """

    def __init__(self, axes: Tensor, strength: float) -> None:
        self.axes, self.strength = axes, strength

    def __call__(self, image: Tensor) -> Tensor:
        shift = (torch.randn(3) * self.strength) @ self.axes
        return image + shift[:, None, None]


def principal_axes(listing: pictures.Listing, most: int = 200) -> Tensor:
    """The principal axes of the colours of up to `most` of the pictures, (3, 3): each row an axis times its eigenvalue.

    Of pixels from 0 to 1. Damaged pictures are passed over.
    """
    step = max(1, len(listing.files) // most)
    count, total, products = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for path, _ in listing.files[::step]:
        try:
            pixels = pictures.read(path, grey=False).reshape(3, -1)[:, ::7].double() / 255
        except Exception:  # it is named when it is trained on
            continue
        count, total, products = count + pixels.shape[1], total + pixels.sum(1), products + pixels @ pixels.T
    if count < 2:
        return torch.zeros(3, 3)
    mean = total / count
    values, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    return (vectors * values.clamp_min(0)).T.float()


def _normalise(settings: Settings) -> list[Any]:
    v2 = transforms()
    mean, std = (pictures.GREY_MEAN, pictures.GREY_STD) if settings.grey else (pictures.MEAN, pictures.STD)
    return [v2.Normalize(mean, std)]


def training(settings: Settings, axes: Tensor | None) -> Transform:
    """Random crop, flip, colour and lighting as the settings say, then zero mean and unit deviation."""
    v2, size = transforms(), settings.side
    if settings.crop == "resized":
        steps: list[Any] = [v2.RandomResizedCrop(size, antialias=True)]
    elif settings.crop == "jitter":
        steps = [ScaleJitter(size, round(size * 256 / 224), round(size * 512 / 224))]
    else:
        steps = [v2.Resize([size, size], antialias=True)]
    if settings.flip:
        steps.append(v2.RandomHorizontalFlip())
    if settings.colour:
        steps.append(v2.ColorJitter(settings.colour, settings.colour, settings.colour))
    steps.append(v2.ToDtype(torch.float32, scale=True))
    if settings.pca and axes is not None and not settings.grey:
        steps.append(Lighting(axes, settings.pca))
    return v2.Compose([*steps, *_normalise(settings)])


def evaluation(settings: Settings, crops: str = "1", scale: int = 0) -> Transform:
    """The picture as the network is judged by.

    crops: "1", the middle of the picture, its shorter side 256/224 of the size; "10", AlexNet's: the corners, the
        middle and their mirror images, (10, C, H, W); "dense", the whole picture, its shorter side `scale`, and its
        mirror image, (2, C, H, W).
    """
    v2, size = transforms(), settings.side
    to_float = [v2.ToDtype(torch.float32, scale=True), *_normalise(settings)]
    if settings.crop == "none" and crops == "1":
        return v2.Compose([v2.Resize([size, size], antialias=True), *to_float])
    shorter = scale or round(size * 256 / 224)
    resize = v2.Resize(shorter, antialias=True)
    if crops == "1":
        return v2.Compose([resize, v2.CenterCrop(size), *to_float])
    if crops == "10":
        return v2.Compose([resize, *to_float, v2.TenCrop(size), torch.stack])
    return v2.Compose([resize, *to_float, lambda image: torch.stack([image, image.flip(-1)])])
