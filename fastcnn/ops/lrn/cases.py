"""The problems by which local_response_norm is tried, and those timed against PyTorch."""

from __future__ import annotations

from fastcnn.core.cases import IMAGES, Case

# Odd sizes, ragged channels, strides, slices, one image and none. Each plan runs every case that it can take.
CASES = (
    Case(IMAGES, (5, 0.3, 0.75, 1.0)),
    Case(((1, 6, 5, 5),), (4, 1e-2, 0.5, 2.0)),
    Case(((1, 48, 6, 5),), (5, 1e-2, 0.75, 2.0), sliced=True),
)
# One for each kind of problem that the ledger tells apart, as networks have it.
RACES = (
    Case(((1, 96, 55, 55),), (5, 1e-4, 0.75, 2.0)),
    Case(((32, 96, 55, 55),), (5, 1e-4, 0.75, 2.0)),
)
