"""The problems by which concat is tried, and those timed against PyTorch."""

from __future__ import annotations

from fastcnn.core.cases import Case

# Odd sizes, ragged channels, strides, slices, one image and none. Each plan runs every case that it can take.
CASES = (Case(((2, 19, 9, 7), (2, 5, 9, 7))), Case(((1, 48, 6, 5), (1, 16, 6, 5)), sliced=True))
# One for each kind of problem that the ledger tells apart, as networks have it.
RACES = (
    Case(((1, 64, 28, 28), (1, 128, 28, 28), (1, 32, 28, 28))),
    Case(((32, 64, 28, 28), (32, 128, 28, 28), (32, 32, 28, 28))),
)
