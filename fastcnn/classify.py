"""A user's picture through a network with a user's weights: reading, preparing, naming the classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcnn import train
from fastcnn.models import get_model
from fastcnn.models.lenet import LeNet5

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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


def classify(
    picture: str | os.PathLike[str],
    model: str,
    weights: str | os.PathLike[str],
    *,
    top: int = 5,
    variant: str | None = None,
    num_classes: int | None = None,
) -> Classification:
    """The `top` likeliest classes of a picture.

    Args:
        picture: a file that Pillow reads.
        model: a name of `fastcnn.models.list_models()`.
        weights: a .safetensors, .pth or .pt file that fits the model.
        variant, num_classes: as the model's builder takes them; its defaults where None.

    Raises:
        OSError, ValueError: a file that cannot be read, weights that do not fit, an unknown name.
        ImportError: Pillow is missing.
    """
    if top < 1:
        raise ValueError(f"classify: top is {top}; at least 1 is needed")
    image = read_picture(picture)
    given = {"variant": variant, "num_classes": num_classes}
    network = get_model(model, weights=weights, **{k: v for k, v in given.items() if v is not None}).eval()
    digits = isinstance(network, LeNet5)
    input = digit_input(image) if digits else imagenet_input(image, 32 if model.endswith("_cifar") else 224)
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


def read_picture(path: str | os.PathLike[str]) -> Image:
    """A picture file, turned upright as its EXIF data says. OSError or ValueError, in words, if it cannot be read."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install 'fastcnn[demo]'") from error
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"picture: {path} is not a picture in a format that Pillow knows") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"picture: cannot read {path}: {reason}") from error


def imagenet_input(image: Image, size: int = 224) -> Tensor:
    """(1, 3, size, size) as networks trained on ImageNet expect it.

    The shorter side is resized to size * 256/224, the centre cropped, each channel standardised.
    """
    side = round(size * 256 / 224)
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.convert("RGB").resize((width, height), resample=2)  # 2: bilinear, over the whole source area
    pixels = _pixels(resized.crop((left, top, left + size, top + size)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((pixels - mean) / std).unsqueeze(0).contiguous(memory_format=torch.channels_last)


def digit_input(image: Image) -> Tensor:
    """(1, 1, 32, 32) as LeNet-5 was trained: the ink cropped, brought to 8x8 like the training digits, enlarged.

    Ink is what differs from the border, so that black on white and white on black both serve. Raises
    ValueError for a picture of one colour.
    """
    grey = _pixels(_on_white(image))[0]
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


def _on_white(image: Image) -> Image:
    """Grey, with transparent parts white."""
    from PIL import Image as images

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = images.alpha_composite(images.new("RGBA", image.size, "white"), image)
    # Pillow clips 16-bit grey to white on conversion to "L".
    return image.point(lambda value: value / 256).convert("L") if image.mode.startswith("I;16") else image.convert("L")


def _pixels(image: Image) -> Tensor:
    """(channels, height, width), 0 to 1."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, -1).permute(2, 0, 1).float() / 255
