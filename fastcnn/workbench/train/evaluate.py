"""Accuracy of trained weights on a folder: `python -m fastcnn evaluate FOLDER --model NAME --weights FILE...`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fastcnn.models import get_model
from fastcnn.models.vgg import VGG, to_dense
from fastcnn.workbench.train import judge, pictures
from fastcnn.workbench.train.settings import Settings

CROPS = ("1", "10", "dense")


def evaluate(
    folder: Path, weights: Sequence[Path], settings: Settings, *, crops: str = "1", scales: Sequence[int] = (),
    on_batch: Callable[[int], None] | None = None,
) -> tuple[judge.Verdict, list[str]]:  # fmt: skip
    """The verdict on the folder's pictures (its folder val if it has one), and its classes.

    weights: several files are networks whose probabilities are averaged.
    crops: "1", the middle; "10", AlexNet's corners, middle and mirror images; "dense", VGG's: the linear layers slide
        over the whole picture, at each of `scales` pixels of its shorter side, and over its mirror image.

    Raises ValueError for unknown crops, scales without "dense" or below the network's input, "dense" for a network
    that takes one size, weights that do not fit, a folder without classes; OSError for files that cannot be read.
    """
    if crops not in CROPS:
        raise ValueError(f"evaluate: unknown crops {crops!r}; allowed: {', '.join(CROPS)}")
    if not weights:
        raise ValueError("evaluate: no weights; one file or more is needed")
    if scales and crops != "dense":
        raise ValueError("evaluate: scales are for dense crops alone")
    if any(scale < settings.side for scale in scales):
        raise ValueError(
            f"evaluate: scales are {tuple(scales)}; at least {settings.side}, the network's input, is needed"
        )
    listing = pictures.list_folder(folder / "val" if (folder / "val").is_dir() else folder)
    models = [_load(path, settings, len(listing.classes), crops == "dense") for path in weights]
    verdict = judge.judge(models, listing, settings, crops=crops, scales=tuple(scales) or (0,), on_batch=on_batch)
    return verdict, listing.classes


def _load(path: Path, settings: Settings, classes: int, dense: bool) -> nn.Module:
    variant = {} if settings.variant is None else {"variant": settings.variant}
    model = get_model(settings.model, num_classes=classes, weights=path, **variant)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not dense:
        return model.eval()
    if isinstance(model, VGG):
        return to_dense(model).eval()
    if settings.model in ("lenet5", "alexnet"):
        raise ValueError(
            f"evaluate: {settings.model} takes pictures of one size; dense crops need a VGG, ResNet, GoogLeNet"
        )
    return model.eval()


def settings_for(model: str, variant: str | None, size: int, batch_size: int, workers: int) -> Settings:
    """What `evaluate` needs of a run's settings."""
    return replace(Settings(), model=model, variant=variant, size=size, batch_size=batch_size, workers=workers)
