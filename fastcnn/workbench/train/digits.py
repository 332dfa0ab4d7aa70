"""LeNet-5 on real handwritten digits: the pictures, the recipe, the held-out accuracy.

The digits are the 1,797 of scikit-learn's `load_digits` (the test part of "Optical Recognition of Handwritten
Digits", Alpaydin and Kaynak, 1998, UCI repository; 13 writers): 8x8 counts of ink, 0 to 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcnn.models import lenet5
from fastcnn.models.lenet import LeNet5, map_loss

BACKGROUND, INK = -0.1, 1.175  # the paper's pixel values: about mean 0 and variance 1 over a picture
SIDE, DIGIT_SIDE = 32, 24  # the paper's field, and the part of it that the 8x8 digit fills


class Digits(NamedTuple):
    """Pictures (N, 1, 32, 32) from -0.1 to 1.175 and labels (N,); the held-out third never trains or selects."""

    images: Tensor
    labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How LeNet-5 is trained: AdamW, one learning-rate cycle, each digit distorted anew in every epoch.

    The defaults were chosen on a quarter of the training part, never on the held-out third.
    """

    variant: str = "paper"
    epochs: int = 40
    batch_size: int = 32
    learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"train: {name} is {getattr(self, name)}; at least 1 is needed")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"train: learning_rate is {self.learning_rate}; a positive number is needed")


class Epoch(NamedTuple):
    """What one pass over the training pictures came to; `loss` is its mean."""

    number: int
    loss: float


def load_digits() -> Digits:
    """scikit-learn's digits as LeNet-5 takes them: two thirds to train, a held-out third, drawn class by class.

    The split is the same in every run. Raises ImportError where scikit-learn is missing.
    """
    try:
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'fastcnn[demo]'") from error
    counts, labels = datasets.load_digits(return_X_y=True)
    split = train_test_split(counts, labels, test_size=1 / 3, stratify=labels, random_state=0)
    images, held_out_images = (place(torch.from_numpy(part).float().view(-1, 1, 8, 8) / 16) for part in split[:2])
    labels, held_out_labels = (torch.from_numpy(part).long() for part in split[2:])
    return Digits(images, labels, held_out_images, held_out_labels)


def place(ink: Tensor) -> Tensor:
    """(N, 1, 8, 8) ink from 0 to 1 as LeNet-5's input: enlarged, centred in 32x32, scaled to -0.1 to 1.175."""
    enlarged = F.interpolate(ink, (DIGIT_SIDE, DIGIT_SIDE), mode="bilinear", align_corners=False)
    margin = (SIDE - DIGIT_SIDE) // 2
    return BACKGROUND + (INK - BACKGROUND) * F.pad(enlarged, (margin,) * 4)


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture turned (up to 12 degrees), scaled and sheared (up to 10 %) and shifted (up to 2 pixels)."""

    def uniform(bound: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * bound

    angle, scale, shear = uniform(math.radians(12)), 1 + uniform(0.1), uniform(0.1)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [
        torch.stack([cos, shear - sin, uniform(2 / (SIDE / 2))], 1),
        torch.stack([sin, cos, uniform(2 / (SIDE / 2))], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    # Outside the picture grid_sample reads 0, which must mean background.
    return F.grid_sample(images - BACKGROUND, grid, align_corners=False) + BACKGROUND


def train(digits: Digits, recipe: Recipe | None = None, on_epoch: Callable[[Epoch], None] | None = None) -> LeNet5:
    """LeNet-5 trained on `digits.images`: the paper's variant by its MAP loss, the modern one by cross-entropy.

    The seed decides everything random; the global random state is left alone. `on_epoch` is called after
    each epoch. Returns the network in evaluation mode.
    """
    recipe = recipe or Recipe()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = lenet5(recipe.variant)
    return fit(model, map_loss if recipe.variant == "paper" else F.cross_entropy, digits, recipe, on_epoch)


def fit(
    model: LeNet5, criterion: Callable[[Tensor, Tensor], Tensor], digits: Digits, recipe: Recipe,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> LeNet5:  # fmt: skip
    """Trains `model` itself by `criterion(outputs, labels)`, in all else as `train` does; the recipe's variant is
    not looked at. Returns it in evaluation mode.
    """
    with one_thread():
        return _fit(model, criterion, digits, recipe, on_epoch)


@contextmanager
def one_thread() -> Iterator[None]:
    """A layer of LeNet-5 is too small to share: on a busy machine, waiting for a second thread takes longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit(
    model: LeNet5, criterion: Callable[[Tensor, Tensor], Tensor], digits: Digits, recipe: Recipe,
    on_epoch: Callable[[Epoch], None] | None,
) -> LeNet5:  # fmt: skip
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    steps = math.ceil(len(digits.images) / recipe.batch_size) * recipe.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=max(steps, 2), pct_start=0.15
    )
    model.train()
    for number in range(1, recipe.epochs + 1):
        order = torch.randperm(len(digits.images), generator=generator)
        images, labels = distort(digits.images[order], generator), digits.labels[order]
        total = 0.0
        for batch, target in zip(images.split(recipe.batch_size), labels.split(recipe.batch_size), strict=True):
            loss = criterion(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        if on_epoch is not None:
            on_epoch(Epoch(number, total / len(images)))
    return model.eval()


@torch.inference_mode()
def confusion(model: LeNet5, images: Tensor, labels: Tensor) -> Tensor:
    """(10, 10) counts: row by the true digit, column by the predicted one. The diagonal is right."""
    return torch.bincount(labels * 10 + model.predict(images), minlength=100).view(10, 10)


def accuracy(counts: Tensor) -> float:
    """The right share of a confusion matrix, 0 to 1."""
    return (counts.diag().sum() / counts.sum()).item()
