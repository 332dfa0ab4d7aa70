"""What a byte stands for: a scale and a zero point a tensor, chosen from the values that calibration saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Scale(NamedTuple):
    """A byte u stands for scale * (u - zero). zero is 0 where nothing is negative."""

    scale: float
    zero: int


def scale_between(low: float, high: float) -> Scale:
    """The finest scale whose bytes reach from low to high, 0 among them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    return Scale(scale, round(-low / scale)) if scale > 0 else Scale(1.0, 0)


def fake(x: Tensor, scale: Scale) -> Tensor:
    """x as its bytes stand for it."""
    return ((x / scale.scale).round() + scale.zero).clamp(0, 255).sub(scale.zero).mul(scale.scale)


@dataclass
class Seen:
    """The values of a tensor over the batches: their extremes, and as many of them as choosing a scale takes."""

    SAMPLE = 1 << 13  # values kept a batch

    low: float = 0.0
    high: float = 0.0
    finite: bool = True
    samples: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor) -> None:
        flat = x.detach().reshape(-1)
        low, high = map(float, torch.aminmax(flat))
        self.finite &= abs(low) + abs(high) < float("inf")
        self.low, self.high = min(self.low, low), max(self.high, high)
        if flat.numel() > self.SAMPLE:
            generator = torch.Generator().manual_seed(len(self.samples))
            flat = flat[torch.randint(flat.numel(), (self.SAMPLE,), generator=generator)]
        self.samples.append(flat.clone())

    @property
    def sample(self) -> Tensor:
        return torch.cat(self.samples)


Bounds = tuple[float, float]


def min_max(seen: Seen) -> Bounds:
    """All values seen."""
    return seen.low, seen.high


def percentile(seen: Seen) -> Bounds:
    """All but the outermost 0.01 % at each end."""
    sample = seen.sample.sort().values
    cut = round(sample.numel() * 1e-4)
    return float(sample[cut]), float(sample[sample.numel() - 1 - cut])


def least_squares(seen: Seen) -> Bounds:
    """Of the extremes shrunk by up to three quarters, those with the least squared error over the values."""
    sample = np.append(seen.sample.numpy(), np.array([seen.low, seen.high], np.float32))
    best, bounds = float("inf"), (seen.low, seen.high)
    for step in range(40, 9, -1):
        low, high = seen.low * step / 40, seen.high * step / 40
        scale, zero = scale_between(low, high)
        rounded = np.clip(np.rint(sample * np.float32(1 / scale)), -zero, 255 - zero) * np.float32(scale)
        error = float(np.square(rounded - sample).sum(dtype=np.float64))
        if error < best:
            best, bounds = error, (low, high)
    return bounds


METHODS: dict[str, Callable[[Seen], Bounds]] = {
    "min_max": min_max,
    "percentile": percentile,
    "least_squares": least_squares,
}
