"""Weights in the form a kernel reads, made once and remade when the weight changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

_packed: dict[tuple[int, Hashable], tuple[weakref.ref[Tensor], int, int, Tensor]] = {}


def packed(weight: Tensor, kernel: Hashable, pack: Callable[[Tensor], Tensor]) -> Tensor:
    """`pack(weight)`, remembered until the weight is modified in place, replaced or freed.

    Changes are seen through the version counter that autograd keeps. Writing through `weight.data` goes round
    that counter, as it goes round autograd: call `clear_packed()` after doing so. An inference tensor has no
    counter, so it is packed on each call.
    """
    if weight.is_inference():
        return pack(weight)
    key = (id(weight), kernel)
    entry = _packed.get(key)
    if entry is not None:
        reference, version, address, result = entry
        if reference() is weight and version == weight._version and address == weight.data_ptr():
            return result
    version, address = weight._version, weight.data_ptr()
    with torch.no_grad():
        result = pack(weight.detach())
    _packed[key] = (weakref.ref(weight, lambda _: _packed.pop(key, None)), version, address, result)
    return result


def clear_packed() -> None:
    """Forgets every packed weight."""
    _packed.clear()
