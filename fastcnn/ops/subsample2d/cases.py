"""The problems by which subsample2d is tried, and those timed against PyTorch."""

from __future__ import annotations

from fastcnn.core.cases import IMAGES, Case

# Odd sizes, ragged channels, strides, slices, one image and none. Each plan runs every case that it can take.
CASES = (
    Case((*IMAGES, (19,), (19,)), (2, "sigmoid")),
    Case(((1, 48, 6, 8), (48,), (48,)), (2, "scaled_tanh"), sliced=True),
)
# One for each kind of problem that the ledger tells apart, as networks have it.
RACES = (
    Case(((32, 6, 28, 28), (6,), (6,)), (2, "scaled_tanh")),
    Case(((1024, 6, 28, 28), (6,), (6,)), (2, "scaled_tanh")),
)
