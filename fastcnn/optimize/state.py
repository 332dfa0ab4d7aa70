"""What a model holds beside its weights: modules, hooks, flags, numbers. Seen to change, or known not to have.

A snapshot lists the dictionaries and lists of all modules with the objects in them, by identity. It is taken before
and after a call to see what the call leaves behind, and compared before each later call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastcnn.core.fingerprints import Fingerprints

# Of nn.Module's own dictionaries, those that do not decide what a call computes.
_IGNORED = frozenset(
    [
        "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs", "_is_full_backward_hook", "_load_state_dict_post_hooks",
        "_load_state_dict_pre_hooks", "_non_persistent_buffers_set", "_state_dict_hooks", "_state_dict_pre_hooks",
    ]
)  # fmt: skip
_PLAIN = (bool, int, float, str, bytes, type(None))
_DEPTH = 4  # how far lists and dicts in attributes are followed


class Snapshot:
    """The state of a model at one moment."""

    def __init__(self, model: nn.Module) -> None:
        self._held: list[tuple[Any, list[Any], list[Any]]] = []
        self._seen: set[int] = set()
        for module in model.modules():
            self._add(vars(module), _DEPTH)
        self._prints = Fingerprints([container for container, _, _ in self._held])

    def _add(self, container: Any, depth: int) -> None:
        if id(container) in self._seen:
            return
        self._seen.add(id(container))
        keys, values = _contents(container)
        self._held.append((container, keys, values))
        for key, item in zip(keys, values, strict=False):
            if type(item) in (dict, OrderedDict, list) and key not in _IGNORED and depth:
                self._add(item, depth - 1)

    def holds(self) -> bool:
        """Whether all is as it was, by identity; plain values may be equal ones."""
        if not self._prints.changed():
            return True
        if not all(_same(held, _contents(held[0])) for held in self._held):
            return False
        self._prints.take()  # an equal number in the place of another
        return True

    def changes(self) -> str:
        """One thing that changed, in words; empty if nothing did."""
        for container, keys, values in self._held:
            before, after = dict(zip(keys, values, strict=True)), dict(zip(*_contents(container), strict=True))
            for key in (*before, *after):
                if key not in before or key not in after or not _alike(before[key], after[key]):
                    return str(key)
        return ""

    def tensors(self) -> Iterator[tuple[dict[Any, Any], Any]]:
        """The places of the tensors in dictionaries: a dictionary and a key each."""
        for container, keys, values in self._held:
            for key, item in zip(keys, values, strict=False):
                # The count of training's batches decides nothing.
                if isinstance(item, Tensor) and isinstance(container, dict) and key != "num_batches_tracked":
                    yield container, key


def _contents(container: Any) -> tuple[list[Any], list[Any]]:
    if isinstance(container, dict):
        return list(container), list(container.values())
    return list(range(len(container))), list(container)


def _same(held: Any, now: Any) -> bool:
    _, keys, values = held
    return len(now[0]) == len(keys) and all(map(_alike, values, now[1])) and now[0] == keys


def _alike(a: Any, b: Any) -> bool:
    if a is b:
        return True
    return type(a) is type(b) and type(a) in _PLAIN and (a == b or a != a)


def modules_with_hooks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules below the model with hooks that do more than compute a weight."""
    return [(name, m) for name, m in model.named_modules() if name and _hooks(m)]


def _hooks(module: nn.Module) -> list[Any]:
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    # Those of torch.nn.utils (weight_norm, spectral_norm, prune) compute a weight from parameters.
    return [hook for hook in hooks if not type(hook).__module__.startswith("torch.nn.utils.")]


def has_global_hooks() -> bool:
    found = torch.nn.modules.module
    return bool(found._global_forward_hooks or found._global_forward_pre_hooks)


def tensor_names(model: nn.Module) -> dict[int, tuple[str, Tensor]]:
    """By id, the tensors that the model's modules hold, with their names."""
    found: dict[int, tuple[str, Tensor]] = {}
    for path, module in model.named_modules():
        for place in (module._parameters, module._buffers, vars(module)):
            for name, tensor in place.items():
                if isinstance(tensor, Tensor):
                    found.setdefault(id(tensor), (f"{path}.{name}".lstrip("."), tensor))
    return found
