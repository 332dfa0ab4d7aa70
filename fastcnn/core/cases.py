"""Problems by which an operator is tried: its tests, the verification on hardware, the compile sweep, benchmarks."""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """One problem: the shapes of its tensors (None for an absent one) and its scalar arguments.

    sliced: images are channel slices of wider tensors, the output too where the operator writes into one.
    """

    shapes: tuple[tuple[int, ...] | None, ...]
    params: tuple[Any, ...] = ()
    sliced: bool = False


IMAGES = ((2, 19, 9, 7),)  # one image tensor of odd size and ragged channels
