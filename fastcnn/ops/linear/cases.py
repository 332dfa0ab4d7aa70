"""The problems by which linear is tried, and those timed against PyTorch."""

from __future__ import annotations

from fastcnn.core.cases import Case

# Odd sizes, ragged channels, strides, slices, one image and none. Each plan runs every case that it can take.
CASES = (
    Case(((3, 83), (37, 83), (37,)), ("relu",)),
    Case(((1, 264), (130, 264), None), (None,)),
    Case(((70, 96), (65, 96), (65,)), ("tanh",)),
)
# One for each kind of problem that the ledger tells apart, as networks have it.
RACES = (
    Case(((8, 4096), (1000, 4096), (1000,)), (None,)),
    Case(((256, 4096), (4096, 4096), (4096,)), ("relu",)),
)
