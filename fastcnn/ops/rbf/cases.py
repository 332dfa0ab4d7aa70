"""The problems by which rbf is tried, and those timed against PyTorch."""

from __future__ import annotations

from fastcnn.core.cases import Case

# Odd sizes, ragged channels, strides, slices, one image and none. Each plan runs every case that it can take.
CASES = (Case(((3, 83), (10, 83))), Case(((1, 84), (10, 84))))
# One for each kind of problem that the ledger tells apart, as networks have it.
RACES = (Case(((256, 84), (10, 84))), Case(((1 << 17, 84), (10, 84))))
