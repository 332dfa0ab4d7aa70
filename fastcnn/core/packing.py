"""Weights in the form a kernel reads, kept as long as those they were made of are unchanged, whoever may change them.

What is kept is trusted with a fingerprint of its sources (fastcnn/core/fingerprints.py), taken in the call that trusts
it. Where a gradient may be asked for nothing is kept: see `changing`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fastcnn.core import fingerprints

T = TypeVar("T")


class _Kept(NamedTuple):
    state: bytes  # of the sources
    steps: int | None  # of optimisers when it was made; None on a CPU
    storages: list[
        weakref.ref[Any]
    ]  # the sources': the entry goes with the first of them, before its address is reused
    result: Tensor


_kept: dict[tuple[Hashable, ...], _Kept] = {}


def kept(sources: tuple[Tensor, ...], name: Hashable, make: Callable[..., Tensor]) -> Tensor | None:
    """`make(*sources)`, kept under the name until a source changes or its memory goes; None where it may not be kept.

    The references are to storages, because torch.utils.swap_tensors refuses a tensor that has weak references.
    """
    for source in sources:
        # A lazily negated tensor shares its memory with its opposite.
        if (changing.now and source.requires_grad) or source.is_neg():
            return None
    key = (name, *map(Tensor.data_ptr, sources))
    entry = _kept.get(key)
    state = fingerprints.take(sources)
    if entry is not None and entry.state == state and entry.steps in (None, fingerprints.optimizer_steps[0]):
        return entry.result
    if any(source.is_inference() for source in sources):  # it has no version counter
        return None
    # Not an inference tensor, which a kernel would pack on each call.
    with torch.inference_mode(False), torch.no_grad():
        result = make(*[source.detach() for source in sources])
    steps = None if all(source.is_cpu for source in sources) else fingerprints.optimizer_steps[0]
    storages = [weakref.ref(source.untyped_storage(), lambda _: _kept.pop(key, None)) for source in sources]
    _kept[key] = _Kept(state, steps, storages, result)
    return result


def packed(weight: Tensor, kernel: Hashable, pack: Callable[[Tensor], Tensor]) -> Tensor:
    """`pack(weight)`, kept where it may be."""
    found = kept((weight,), kernel, pack)
    return pack(weight.detach()) if found is None else found


def joined(tensors: tuple[Tensor, ...]) -> Tensor:
    """`torch.cat(tensors)`, kept where it may be."""
    found = kept(tensors, "joined", lambda *tensors: torch.cat(tensors))
    return torch.cat(tensors) if found is None else found


def clear_packed() -> None:
    """Forgets every packed weight."""
    _kept.clear()


def release(module: nn.Module) -> None:
    """Forgets what is kept of a module's weights."""
    addresses = {t.data_ptr() for t in (*module.parameters(), *module.buffers())}
    for key in [key for key in _kept if addresses.intersection(key[1:])]:
        _kept.pop(key, None)


def refresh(module: nn.Module) -> None:
    """Makes the next call of a module use its weights as they are now.

    For a change that fastcnn cannot see: of some elements of a tensor above 16 KB, or of any tensor on a GPU, behind
    PyTorch's back (through `.data`, a numpy view, another process, a collective). Takes layers, networks of layers,
    and what `fastcnn.optimize` returned.

    Raises TypeError if module is not a torch.nn.Module.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"refresh: module is {type(module).__name__}; a torch.nn.Module is needed")
    release(module)
    for part in list(module.modules()):
        own = getattr(type(part), "__fastcnn_refresh__", None)
        if own is not None:
            own(part)


class _Changing(threading.local):
    """Whether this thread is where gradients may be asked for: a weight that takes some is packed on each call there.

    A training step may change any part of a weight, and packing costs it 1 to 3 %. `Operator.run`, which every
    call under autograd or torch.compile goes through, says so; plain inference does not go through it.
    """

    now = False

    def run(self, function: Callable[..., T], *arguments: object) -> T:
        before, self.now = self.now, not torch.is_inference_mode_enabled()
        try:
            return function(*arguments)
        finally:
            self.now = before


changing = _Changing()
