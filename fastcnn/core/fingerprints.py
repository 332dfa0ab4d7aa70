"""What tensors are, in a few bytes that show every change that can be seen at the price of a call.

Address and version counter do not tell: `.data`, a numpy view, another process, a collective, a fused optimiser and
batch normalisation in training write round the counter, and addresses are used again. So a fingerprint has something of
the contents too (csrc/cpu/fingerprint.h).

- On a CPU it shows every change of a whole tensor, and every change of a tensor up to 16 KB. Of a larger one eight
  cache lines are read, and the version counter: a change of some elements of it that goes round the counter is seen
  if it touches one of those lines.
- On other devices reading back would make each call wait for the device. There it is address, version counter and
  the number of optimiser steps so far.

What this leaves is what `fastcnn.refresh` is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fastcnn.core import native
from fastcnn.core.recall import ATTACHED

optimizer_steps = [0]


def _count_step(*_: Any) -> None:
    optimizer_steps[0] += 1


register_optimizer_step_post_hook(_count_step)


def _fingerprints_in_python(items: tuple[Any, ...]) -> bytes:
    """`_C.fingerprints`, for a torch without DLPack's table of functions (before 2.10)."""
    return b"".join(_fingerprint_in_python(item) for item in items)


def _objects(container: dict[Any, Any] | list[Any]) -> list[Any]:
    return [*container, *container.values()] if isinstance(container, dict) else list(container)


def _fingerprint_in_python(item: Any) -> bytes:
    if isinstance(item, dict | list):
        return (hash(tuple(map(id, _objects(item)))) % 2**64).to_bytes(8, "little")
    value = item[0].get(item[1]) if isinstance(item, tuple) else item
    if not isinstance(value, Tensor):
        return id(value).to_bytes(8, "little")
    contents = 0
    if type(value) in (Tensor, nn.Parameter) and value.is_cpu and native.unavailable is None:
        last = sum((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
        bytes = (last + 1) * value.element_size() if value.numel() else 0
        contents = native.extension.memory_fingerprint(value.data_ptr(), bytes)
    version = 0 if value.is_inference() else value._version
    state = (value.data_ptr(), version, value.shape, value.stride(), value.dtype, value.device, contents)
    return (hash(state) % 2**64).to_bytes(8, "little")


# take(items) -> 8 bytes an item: see csrc/python/fingerprints.h.
take: Callable[[tuple[Any, ...]], bytes] = native.extension.fingerprints if ATTACHED else _fingerprints_in_python


def _objects_of(item: Any) -> Any:
    """What an item stands for now."""
    if isinstance(item, dict | list):
        return _objects(item)
    return item[0].get(item[1]) if isinstance(item, tuple) else item


class Fingerprints:
    """What some tensors were when it was made; `changed()` tells which are no longer so, in one native call.

    items: tensors, and pairs (dict, key) for whatever the dict holds under the key, such as
        (module._parameters, "weight"): there a new tensor in the place of the old one is a change too. What is no
        tensor, a module for example, is compared by identity. A dict or a list (`vars(module)`) stands for the objects
        in it, compared by identity: the cheapest way to see that a module's attributes, hooks and submodules are what
        they were.

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
        self._held = [_objects_of(item) for item in self._items]
        self._steps = optimizer_steps[0]
        self._known = take(self._items)
        self._on_cpu = all(t.is_cpu for t in self._held if isinstance(t, Tensor))

    def changed(self) -> list[int]:
        """The positions of the items that have changed since `take()`; off the CPU all have after an optimiser step."""
        found = take(self._items)
        if found == self._known and (self._on_cpu or self._steps == optimizer_steps[0]):
            return []
        stepped = self._steps != optimizer_steps[0]
        return [
            i
            for i, held in enumerate(self._held)
            if found[8 * i : 8 * i + 8] != self._known[8 * i : 8 * i + 8]
            or (stepped and isinstance(held, Tensor) and not held.is_cpu)
        ]
