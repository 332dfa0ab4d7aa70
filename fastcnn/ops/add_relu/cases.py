"""The problems by which add_relu is tried, and those timed against PyTorch."""

from __future__ import annotations

from fastcnn.core.cases import IMAGES, Case

# Odd sizes, ragged channels, strides, slices, one image and none. Each plan runs every case that it can take.
CASES = (Case(IMAGES * 2), Case(((1, 48, 6, 5), (1, 48, 6, 5)), sliced=True))
# One for each kind of problem that the ledger tells apart, as networks have it.
RACES = (Case(((1, 256, 56, 56), (1, 256, 56, 56))), Case(((32, 256, 56, 56), (32, 256, 56, 56))))
