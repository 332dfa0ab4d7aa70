"""Weights in the form a kernel reads, kept as long as those they were made of are unchanged, whoever may change them.

Address and version counter do not tell: `.data`, a numpy view, another process, a collective, a fused optimiser and
batch normalisation in training write round the counter, and addresses are used again. So a kept form is trusted with
a fingerprint of its source (csrc/cpu/fingerprint.h), taken in the call that trusts it.

- On a CPU it shows every change of a whole tensor, and every change of a tensor up to 16 KB. Of a larger one eight
  cache lines are read, and the version counter: a change of some elements of it that goes round the counter is seen
  if it touches one of those lines.
- On other devices reading back would make each call wait for the device. There it is address, version counter and
  the number of optimiser steps so far.

`refresh()` is for what this leaves. Where a gradient may be asked for nothing is kept: see `changing`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fastcnn.core import native
from fastcnn.core.recall import ATTACHED

_optimizer_steps = [0]


def _count_step(*_: Any) -> None:
    _optimizer_steps[0] += 1


register_optimizer_step_post_hook(_count_step)


def _fingerprints_in_python(items: tuple[Any, ...]) -> bytes:
    """`_C.fingerprints`, for a torch without DLPack's table of functions (before 2.10)."""
    return b"".join(_fingerprint_in_python(item) for item in items)


def _fingerprint_in_python(item: Any) -> bytes:
    value = item[0].get(item[1]) if isinstance(item, tuple) else item
    if not isinstance(value, Tensor):
        return id(value).to_bytes(8, "little")
    contents = 0
    if type(value) in (Tensor, nn.Parameter) and value.is_cpu and native.extension is not None:
        last = sum((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
        bytes = (last + 1) * value.element_size() if value.numel() else 0
        contents = native.extension.memory_fingerprint(value.data_ptr(), bytes)
    version = 0 if value.is_inference() else value._version
    state = (value.data_ptr(), version, value.shape, value.stride(), value.dtype, value.device, contents)
    return (hash(state) % 2**64).to_bytes(8, "little")


fingerprints: Callable[[tuple[Any, ...]], bytes] = (
    native.extension.fingerprints if ATTACHED else _fingerprints_in_python  # type: ignore[union-attr]
)


class Fingerprints:
    """What some tensors were when it was made; `changed()` tells which are no longer so, in one native call.

    items: tensors, and pairs (dict, key) for whatever the dict holds under the key, such as
        (module._parameters, "weight"): there a new tensor in the place of the old one is a change too. What is no
        tensor, a module for example, is compared by identity.

    >>> weight = torch.zeros(3)
    >>> prints = Fingerprints([weight])
    >>> weight.data.add_(1), prints.changed()
    (tensor([1., 1., 1.]), [0])
    >>> prints.take(), prints.changed()
    (None, [])
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = tuple(items)
        self.take()

    def take(self) -> None:
        """From here on, unchanged means as it is now."""
        # Held, so that no address of theirs is used again while they are compared with.
        self._held = [item[0].get(item[1]) if isinstance(item, tuple) else item for item in self._items]
        self._steps = _optimizer_steps[0]
        self._known = fingerprints(self._items)
        self._on_cpu = all(t.is_cpu for t in self._held if isinstance(t, Tensor))

    def changed(self) -> list[int]:
        """The positions of the items that have changed since `take()`; off the CPU all have after an optimiser step."""
        found = fingerprints(self._items)
        if found == self._known and (self._on_cpu or self._steps == _optimizer_steps[0]):
            return []
        stepped = self._steps != _optimizer_steps[0]
        return [
            i
            for i, held in enumerate(self._held)
            if found[8 * i : 8 * i + 8] != self._known[8 * i : 8 * i + 8]
            or (stepped and isinstance(held, Tensor) and not held.is_cpu)
        ]


def slots(module: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """The items of `Fingerprints` that show every change of a module's parameters, buffers and submodules."""
    for part in module.modules():
        for held in (part._parameters, part._buffers, part._modules):
            for key, value in held.items():
                # It counts the batches of training, which change the running statistics; a GPU's show no change.
                if key != "num_batches_tracked" or value is None or not value.is_cpu:
                    yield held, key


# ---- packed weights ----------------------------------------------------------------------------------------


class _Kept(NamedTuple):
    state: bytes  # of the source
    storage: weakref.ref[Any]  # the source's: while it lives, no other tensor has its address
    packed: Tensor


_kept: dict[tuple[int, Hashable], _Kept] = {}


def kept(weight: Tensor, kernel: Hashable, pack: Callable[[Tensor], Tensor]) -> Tensor | None:
    """`pack(weight)`, kept until the weight changes or its memory goes; None where it may not be kept.

    The references are to storages, because torch.utils.swap_tensors refuses a tensor that has weak references.
    """
    # An inference tensor has no version counter. A lazily negated one shares its memory with its opposite.
    if (changing.now and weight.requires_grad) or weight.is_inference() or weight.is_neg():
        return None
    key = (weight.data_ptr(), kernel)
    state = _state((weight,))
    entry = _kept.get(key)
    if entry is not None and entry.state == state and entry.storage() is not None:
        return entry.packed
    with torch.no_grad():
        packed = pack(weight.detach())
    storage = weakref.ref(weight.untyped_storage(), lambda _: _kept.pop(key, None))
    _kept[key] = _Kept(state, storage, packed)
    return packed


def packed(weight: Tensor, kernel: Hashable, pack: Callable[[Tensor], Tensor]) -> Tensor:
    """`pack(weight)`, kept where it may be."""
    found = kept(weight, kernel, pack)
    return pack(weight.detach()) if found is None else found


def _state(tensors: tuple[Tensor, ...]) -> bytes:
    found = fingerprints(tensors)
    return found if tensors[0].is_cpu else found + _optimizer_steps[0].to_bytes(8, "little")


_joined: dict[tuple[int, ...], tuple[bytes, list[weakref.ref[Any]], Tensor]] = {}


def joined(tensors: tuple[Tensor, ...]) -> Tensor:
    """`torch.cat(tensors)`, kept as `kept` keeps."""
    if any(tensor.is_inference() or tensor.is_neg() for tensor in tensors):
        return torch.cat(tensors)
    key = tuple([tensor.data_ptr() for tensor in tensors])
    state = _state(tensors)
    entry = _joined.get(key)
    if entry is not None and entry[0] == state and all(storage() is not None for storage in entry[1]):
        return entry[2]
    # Not an inference tensor, which has no version counter: a kernel would pack it on each call.
    with torch.inference_mode(False), torch.no_grad():
        result = torch.cat([tensor.detach() for tensor in tensors])
    storages = [weakref.ref(tensor.untyped_storage(), lambda _: _joined.pop(key, None)) for tensor in tensors]
    _joined[key] = state, storages, result
    return result


def clear_packed() -> None:
    """Forgets every packed weight."""
    _kept.clear()
    _joined.clear()


def refresh(module: nn.Module) -> None:
    """Makes the next call of a module use its weights as they are now.

    For a change that fastcnn cannot see: of some elements of a tensor above 16 KB, or of any tensor on a GPU, behind
    PyTorch's back (through `.data`, a numpy view, another process, a collective). Takes layers, networks of layers,
    and what `fastcnn.optimize` returned.

    Raises TypeError if module is not a torch.nn.Module.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"refresh: module is {type(module).__name__}; a torch.nn.Module is needed")
    addresses = {t.data_ptr() for t in (*module.parameters(), *module.buffers())}
    for key in [key for key in _kept if key[0] in addresses]:
        _kept.pop(key, None)
    for joint in [key for key in _joined if addresses & set(key)]:
        _joined.pop(joint, None)
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

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        before, self.now = self.now, not torch.is_inference_mode_enabled()
        try:
            return function(*arguments)
        finally:
            self.now = before


changing = _Changing()
