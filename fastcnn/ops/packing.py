"""Weights in the form a kernel reads, made once and remade when the weight changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence

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


_joined: dict[tuple[int, ...], tuple[list[weakref.ref[Tensor]], list[tuple[int, int]], Tensor]] = {}


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """`torch.cat(tensors)`, remembered as `packed` remembers."""
    if any(tensor.is_inference() for tensor in tensors):
        return torch.cat(list(tensors))
    key = tuple(map(id, tensors))
    state = [(tensor._version, tensor.data_ptr()) for tensor in tensors]
    entry = _joined.get(key)
    if entry is not None:
        references, known, result = entry
        if known == state and all(r() is t for r, t in zip(references, tensors, strict=True)):
            return result
    # Not an inference tensor, which has no version counter: a kernel would pack it on each call.
    with torch.inference_mode(False), torch.no_grad():
        result = torch.cat([tensor.detach() for tensor in tensors])
    _joined[key] = [weakref.ref(tensor, lambda _: _joined.pop(key, None)) for tensor in tensors], state, result
    return result


def clear_packed() -> None:
    """Forgets every packed weight."""
    _packed.clear()
    _joined.clear()
