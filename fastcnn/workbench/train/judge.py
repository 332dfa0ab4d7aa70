"""Accuracy of a network, or of several together, on a listing of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastcnn.models.lenet import LeNet5
from fastcnn.workbench.train import augment, pictures
from fastcnn.workbench.train.settings import Settings


class Verdict(NamedTuple):
    """counts: (classes, classes), row by the true class, column by the predicted one; top5: pictures whose class is
    among the five likeliest; damaged: (path, reason) of pictures that could not be read."""

    counts: Tensor
    top5: int
    damaged: list[tuple[Path, str]]

    @property
    def pictures(self) -> int:
        return int(self.counts.sum())

    @property
    def top1_accuracy(self) -> float:
        return self.counts.diag().sum().item() / max(1, self.pictures)

    @property
    def top5_accuracy(self) -> float:
        return self.top5 / max(1, self.pictures)


def scores(model: nn.Module, images: Tensor) -> Tensor:
    """Probabilities (N, classes); of LeNet-5's distances, the softmax of what they are short of nothing."""
    output: Any = model(images)
    output = output if isinstance(output, Tensor) else output[0]
    if isinstance(model, LeNet5) and model.variant == "paper":
        output = -output
    if output.dim() == 4:  # a dense network: a map of classes, averaged
        output = output.mean((2, 3))
    return output.softmax(1)


@torch.inference_mode()
def judge(
    models: Sequence[nn.Module], listing: pictures.Listing, settings: Settings, *, crops: str = "1",
    scales: Sequence[int] = (0,), on_batch: Callable[[int], None] | None = None,
) -> Verdict:  # fmt: skip
    """The mean of the probabilities over models, crops and scales decides.

    Averaging over crops is AlexNet's, over scales and dense positions VGG's, over networks everybody's.
    """
    classes = len(listing.classes)
    counts, top5, damaged = torch.zeros(classes, classes, dtype=torch.long), 0, []
    # One picture at a time where each has its own shape.
    size = 1 if crops == "dense" else max(1, settings.batch_size // (10 if crops == "10" else 1))
    loaders = [
        pictures.batches(
            pictures.Pictures(listing, augment.evaluation(settings, crops, scale), settings), 0,
            range(len(listing.files)), size, settings.workers,
        )
        for scale in scales
    ]  # fmt: skip
    for same in zip(*loaders, strict=True):
        damaged += same[0].damaged
        if not len(same[0].labels):
            continue
        total = torch.zeros(len(same[0].labels), classes)
        for batch in same:
            images = batch.images
            views = images.shape[1] if images.dim() == 5 else 1
            flat = images.flatten(0, 1) if images.dim() == 5 else images
            flat = flat.contiguous(memory_format=torch.channels_last)
            for model in models:
                total += scores(model, flat).float().view(-1, views, classes).mean(1)
        labels = same[0].labels
        counts += torch.bincount(labels * classes + total.argmax(1), minlength=classes**2).view(classes, classes)
        top5 += int((total.topk(min(5, classes), 1).indices == labels[:, None]).any(1).sum())
        if on_batch is not None:
            on_batch(len(labels))
    return Verdict(counts, top5, damaged)
