"""A user's picture through a network with a user's weights: reading, preparing, naming the classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastcnn.models import get_model
from fastcnn.models.googlenet import GoogLeNet
from fastcnn.models.lenet import LeNet5
from fastcnn.workbench import train

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = str | os.PathLike[str] | IO[bytes]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# Wider pictures than this (or higher) would take gigabytes when their shorter side is brought to 256 pixels.
MAX_RESIZED_PIXELS = 2**28


class Guess(NamedTuple):
    """One class: its number, its name (the number where names are missing), and its score."""

    number: int
    name: str
    score: float


class Classification(NamedTuple):
    """The best guesses first; `measure` says what the scores are, `note` why there are no names ("" if there are)."""

    guesses: list[Guess]
    measure: str
    note: str


class Classifier:
    """A network with a user's weights, called with one picture after another: a :class:`Classification` each.

    Args:
        model: a name of `fastcnn.models.list_models()`.
        weights: a file that fits the model.
        variant, num_classes: as the model's builder takes them; found from the weights where None.

    GoogLeNet in torchvision's form gets `transform_input`, as torchvision gives it to its own published weights.

    Raises:
        OSError, ValueError: weights that cannot be read or do not fit, an unknown name.
    """

    def __init__(
        self,
        model: str,
        weights: str | os.PathLike[str],
        *,
        variant: str | None = None,
        num_classes: int | None = None,
    ) -> None:
        given = {"variant": variant, "num_classes": num_classes}
        arguments = {name: value for name, value in given.items() if value is not None}
        self.network = get_model(model, weights=weights, **arguments).eval()
        if isinstance(self.network, GoogLeNet):
            self.network.transform_input = self.network.variant == "torchvision"
        self.size = 32 if model.endswith("_cifar") else 224

    def __call__(self, picture: Picture, top: int = 5) -> Classification:
        """The `top` likeliest classes of a picture: a file's name, or a file that is open."""
        if top < 1:
            raise ValueError(f"classify: top is {top}; at least 1 is needed")
        network, image = self.network, read_picture(picture)
        digits = isinstance(network, LeNet5)
        input = digit_input(image) if digits else imagenet_input(image, self.size)
        with torch.inference_mode():
            output = network(input)[0]
        classes = len(output)
        names, note = ([str(i) for i in range(classes)], "") if digits else class_names(classes)
        if digits and network.variant == "paper":
            measure, best = "squared distance, the smallest is the class", output.argsort()
            scores = output
        else:
            scores = output.softmax(0)
            measure, best = "probability", scores.argsort(descending=True)
        guesses = [Guess(int(i), names[int(i)], scores[i].item()) for i in best[:top]]
        return Classification(guesses, measure, note)


def classify(
    picture: Picture,
    model: str,
    weights: str | os.PathLike[str],
    *,
    top: int = 5,
    variant: str | None = None,
    num_classes: int | None = None,
) -> Classification:
    """The `top` likeliest classes of one picture; the arguments are :class:`Classifier`'s.

    Raises:
        OSError, ValueError: a file that cannot be read, weights that do not fit, an unknown name.
        ImportError: Pillow is missing.
    """
    if top < 1:
        raise ValueError(f"classify: top is {top}; at least 1 is needed")
    return Classifier(model, weights, variant=variant, num_classes=num_classes)(picture, top)


def find_pictures(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files that `paths` name; a folder stands for the pictures in it, by their names' endings, in order.

    Raises ValueError for a folder without pictures.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            endings = _pillow().registered_extensions()
            inside = sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in endings)
            if not inside:
                raise ValueError(f"picture: the folder {path} holds no file that ends like a picture (.jpg, .png, ...)")
            found += inside
        else:
            found.append(path)
    return found


def read_picture(picture: Picture) -> Image:
    """A picture's first frame, turned upright as its EXIF data says. ValueError, in words, if it cannot be read."""
    images = _pillow()
    from PIL import ImageOps

    name = os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else getattr(picture, "name", "the file given")
    try:
        with images.open(picture) as image:
            return ImageOps.exif_transpose(image)
    except images.UnidentifiedImageError as error:
        raise ValueError(f"picture: {name} is not a picture in a format that Pillow knows") from error
    except (OSError, SyntaxError, ValueError, images.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"picture: cannot read {name}: {reason}") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'fastcnn[demo]'") from error
    return Image


def imagenet_input(image: Image, size: int = 224) -> Tensor:
    """(1, 3, size, size) as networks trained on ImageNet expect it, to the last bit what torchvision makes of it.

    The shorter side is resized to size * 256/224 by Pillow's bilinear filter, the centre cropped, each channel
    standardised: torchvision's Resize, CenterCrop, ToTensor and Normalize. Other modes than RGB become RGB first
    (:func:`to_rgb`). Raises ValueError for a mode without a meaning as colours, and for a strip so thin that its
    resized form would take gigabytes.
    """
    side = round(size * 256 / 224)
    shorter, longer = sorted(image.size)
    long_side = int(side * longer / shorter)  # cut off, as torchvision does
    if side * long_side > MAX_RESIZED_PIXELS:
        raise ValueError(f"picture: {image.width} x {image.height} pixels are too thin a strip to resize and crop")
    width, height = (side, long_side) if image.width <= image.height else (long_side, side)
    left, top = round((width - size) / 2), round((height - size) / 2)  # halves to the even number, as torchvision
    resized = to_rgb(image).resize((width, height), resample=2)  # 2: bilinear, over the whole source area
    pixels = _pixels(resized.crop((left, top, left + size, top + size)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((pixels - mean) / std).unsqueeze(0).contiguous(memory_format=torch.channels_last)


def to_rgb(image: Image) -> Image:
    """Eight bits of red, green and blue: transparent parts over white, deeper greys scaled rather than cut off.

    Whole numbers above 255 are taken as 16 bits, floating-point values up to 1 as a share of white and above as
    levels of 255. Raises ValueError for values outside and for modes that Pillow does not convert.
    """
    from PIL import Image as images

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = images.alpha_composite(images.new("RGBA", image.size, "white"), image)
    elif image.mode == "F" or image.mode.startswith("I"):
        image = images.fromarray(_eight_bits(np.asarray(image)))
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ValueError(f"picture: its mode {image.mode} cannot be shown as red, green and blue: {error}") from error


def _eight_bits(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if not np.isfinite(low + high) or low < 0 or high > 65535 or (values.dtype.kind == "f" and high > 255):
        raise ValueError(f"picture: its values run from {low} to {high}; 0 to 1, to 255 or (whole) to 65535 are known")
    if values.dtype.kind == "f":
        scale = 255.0 if high <= 1 else 1.0
    else:  # 16-bit files stay so however dark they are; 32-bit ones say by their values what they are
        scale = 1 / 257 if values.dtype.itemsize == 2 or high > 255 else 1.0
    return np.rint(values * np.float64(scale)).astype(np.uint8)


def digit_input(image: Image) -> Tensor:
    """(1, 1, 32, 32) as LeNet-5 was trained: the ink cropped, brought to 8x8 like the training digits, enlarged.

    Ink is what differs from the border, so that black on white and white on black both serve. Raises
    ValueError for a picture of one colour.
    """
    grey = _pixels(to_rgb(image).convert("L"))[0]
    border = torch.cat([grey[0], grey[-1], grey[:, 0], grey[:, -1]]).median()
    ink = (grey - border).abs()
    if ink.max() < 0.1:
        raise ValueError("picture: it has one colour, so there is no digit in it")
    ink = ink / ink.max()
    rows, columns = (torch.nonzero((ink > 0.3).any(dim)).flatten() for dim in (1, 0))
    ink = ink[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    side = max(ink.shape)
    left, above = (side - ink.shape[1]) // 2, (side - ink.shape[0]) // 2
    square = F.pad(ink, (left, side - ink.shape[1] - left, above, side - ink.shape[0] - above))[None, None]
    if side < 32:  # so that each of the 8x8 cells averages several pixels, as the training digits do
        square = F.interpolate(square, (32, 32), mode="bilinear", align_corners=False)
    return train.place(F.adaptive_avg_pool2d(square, 8))


def class_names(classes: int) -> tuple[list[str], str]:
    """ImageNet's class names, as torchvision ships them; the numbers and the reason where they are not to be had."""
    numbers = [f"class {i}" for i in range(classes)]
    if classes != 1000:
        return numbers, f"the network has {classes} classes, not ImageNet's 1,000, so classes are shown by number"
    try:
        from torchvision.models import ResNet50_Weights

        names: Sequence[str] = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    except (ImportError, RuntimeError):  # RuntimeError: a torchvision that was built for another torch
        return numbers, "classes are shown by number: pip install torchvision to see ImageNet's class names"
    return list(names), ""


def _pixels(image: Image) -> Tensor:
    """(channels, height, width), 0 to 1."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, -1).permute(2, 0, 1).float() / 255
