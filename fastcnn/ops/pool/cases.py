"""The problems by which max_pool2d, avg_pool2d, adaptive_avg_pool2d are tried, and those timed against PyTorch."""

from __future__ import annotations

from fastcnn.core.cases import IMAGES, Case

# Odd sizes, ragged channels, strides, slices, one image and none. Each plan runs every case that it can take.
MAX_CASES = (Case(IMAGES, (3, 2, 1, 1, True)), Case(((1, 48, 8, 8),), (2, 2, 0, 1, False), sliced=True))
# One for each kind of problem that the ledger tells apart, as networks have it.
MAX_RACES = (Case(((1, 64, 112, 112),), (3, 2, 1, 1, False)), Case(((32, 64, 112, 112),), (3, 2, 1, 1, False)))
AVG_CASES = (
    Case(IMAGES, (3, 2, 1, True, False, None)),
    Case(((1, 48, 9, 9),), (5, 3, 0, False, True, None), sliced=True),
)
AVG_RACES = (
    Case(((8, 512, 14, 14),), (5, 3, 0, False, True, None)),
    Case(((128, 192, 28, 28),), (3, 1, 1, False, True, None)),
)
ADAPTIVE_CASES = (Case(IMAGES, ((3, 2),)), Case(((1, 48, 7, 7),), (1,), sliced=True))
ADAPTIVE_RACES = (Case(((128, 512, 7, 7),), (7,)), Case(((8, 2048, 7, 7),), (1,)))
