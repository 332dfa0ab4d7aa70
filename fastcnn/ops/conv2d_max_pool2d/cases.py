"""The problems by which conv2d_max_pool2d is tried, and those timed against PyTorch."""

from __future__ import annotations

from typing import Any

from fastcnn.core.cases import Case


def stem(
    N: int, C: int, size: int, K: int, kernel: int, stride: int, padding: int, pool: tuple[Any, ...],
    activation: str = "relu",
) -> Case:  # fmt: skip
    """A convolution and the max pool behind it."""
    return Case(((N, C, size, size), (K, C, kernel, kernel), (K,), None), ((stride, padding, 1, 1, activation), pool))


# Odd sizes, ragged channels, strides, slices, one image and none. Each plan runs every case that it can take.
CASES = (
    stem(2, 1, 32, 6, 5, 1, 0, (2, 2, 0, 1, False), "tanh"),
    stem(1, 3, 63, 37, 11, 4, 2, (3, 2, 0, 1, False)),
    stem(2, 3, 45, 64, 7, 2, 3, (3, 2, 0, 1, True)),
)
# One for each kind of problem that the ledger tells apart, as networks have it.
RACES = (
    stem(1, 3, 112, 64, 7, 2, 3, (3, 2, 1, 1, False)),
    stem(4, 3, 224, 64, 7, 2, 3, (3, 2, 1, 1, False)),
    stem(32, 3, 224, 64, 7, 2, 3, (3, 2, 1, 1, False)),
)
