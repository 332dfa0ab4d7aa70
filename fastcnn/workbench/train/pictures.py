"""Folders of pictures by class: which there are, reading and distorting them, batches in a known order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastcnn.workbench.train.settings import Settings

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder's
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (sum(MEAN) / 3,), (sum(STD) / 3,)


class Listing(NamedTuple):
    """Files with their class numbers, and the classes' names in the order of their numbers."""

    files: list[tuple[Path, int]]
    classes: list[str]


def list_folder(folder: Path, classes: Sequence[str] | None = None) -> Listing:
    """The pictures of a folder with one folder a class, as torchvision's ImageFolder numbers them: by name.

    classes: the names that are to be found, those of a training folder.

    Raises ValueError for a folder without classes, a class without pictures, and classes other than those asked for.
    """
    if not folder.is_dir():
        raise ValueError(f"train: {folder} is not a folder")
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"train: {folder} holds no folders; one folder of pictures a class is needed")
    if classes is not None and found != list(classes):
        raise ValueError(f"train: {folder} has the classes {', '.join(found)}; needed: {', '.join(classes)}")
    files: list[tuple[Path, int]] = []
    for number, name in enumerate(found):
        pictures = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
        if not pictures:
            raise ValueError(f"train: the class {name} is empty: {folder / name} holds no picture")
        files += [(picture, number) for picture in pictures]
    return Listing(files, found)


def split(folder: Path, settings: Settings) -> tuple[Listing, Listing]:
    """What to train on and what to judge by: the folders train and val if there are such, else a share is held out."""
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        training = list_folder(folder / "train")
        return training, list_folder(folder / "val", training.classes)
    everything = list_folder(folder)
    generator = torch.Generator().manual_seed(settings.seed)
    parts: tuple[list[tuple[Path, int]], list[tuple[Path, int]]] = ([], [])
    for number, name in enumerate(everything.classes):
        files = [item for item in everything.files if item[1] == number]
        order = torch.randperm(len(files), generator=generator).tolist()
        held_out = math.ceil(len(files) * settings.held_out)
        if settings.held_out and held_out == len(files):
            raise ValueError(f"train: the class {name} has one picture; two are needed, to train on and to hold out")
        for position, index in enumerate(order):
            parts[position < held_out].append(files[index])
    return Listing(sorted(parts[0]), everything.classes), Listing(sorted(parts[1]), everything.classes)


def read(path: Path, grey: bool) -> Tensor:
    """The picture as uint8 (3, H, W), or (1, H, W) in grey. Raises OSError or ValueError where it is damaged."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.array(image.convert("L" if grey else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


class Sample(NamedTuple):
    """One picture and its class; `error` says why there is none."""

    image: Tensor | None
    label: int
    path: Path
    error: str = ""


class Pictures(Dataset[Sample]):
    """A listing's pictures through `transform`; the index is (epoch, number).

    What is random of a picture follows from seed, epoch and number alone: not from the workers, nor from what was
    drawn before, so that a run that goes on from a checkpoint sees what it would have seen.
    """

    def __init__(self, listing: Listing, transform: Callable[[Tensor], Tensor], settings: Settings) -> None:
        self.listing, self.transform, self.settings = listing, transform, settings

    def __len__(self) -> int:
        return len(self.listing.files)

    def __getitem__(self, index: tuple[int, int]) -> Sample:  # type: ignore[override]
        epoch, number = index
        path, label = self.listing.files[number]
        try:
            picture = read(path, self.settings.grey)
        except Exception as error:  # Pillow's decoders raise nearly anything for a damaged file
            return Sample(None, label, path, f"{type(error).__name__}: {error}".split("\n")[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.settings.seed * 1_000_003 + epoch) * 10_000_019 + number)
            return Sample(self.transform(picture), label, path)


class Batch(NamedTuple):
    """Pictures (N, C, H, W), or (N, crops, C, H, W), their classes, and (path, reason) of those left out."""

    images: Tensor
    labels: Tensor
    damaged: list[tuple[Path, str]]


def collate(samples: list[Sample]) -> Batch:
    good = [s for s in samples if s.image is not None]
    images = torch.stack([s.image for s in good if s.image is not None]) if good else torch.empty(0)
    labels = torch.tensor([s.label for s in good], dtype=torch.long)
    return Batch(images, labels, [(s.path, s.error) for s in samples if s.image is None])


def batches(pictures: Pictures, epoch: int, order: Sequence[int], batch_size: int, workers: int) -> Iterator[Batch]:
    """The pictures of `order` in batches, decoded by `workers` processes (in this one if 0)."""
    indices = [(epoch, number) for number in order]
    chunks = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    loader: Any = DataLoader(pictures, batch_sampler=chunks, num_workers=workers, collate_fn=collate)  # type: ignore[arg-type]
    yield from loader


def epoch_order(count: int, epoch: int, settings: Settings, rank: int = 0, processes: int = 1) -> list[int]:
    """The order of an epoch, or of one process's share of it, of equal length: batches of all processes together are
    those of one process with so many times the batch size."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator).tolist()
    order = order[: count // processes * processes] if count >= processes else order * processes
    return order[rank::processes]
