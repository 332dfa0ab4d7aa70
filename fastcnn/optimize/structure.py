"""Arguments and results as trees: what tensors are in them, and how to build the same again around others."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# A result built from the values of a graph.
Builder = Callable[[Sequence[Any]], Any]

PLAIN_TENSORS = (Tensor, nn.Parameter)
_IMMUTABLE = (
    bool,
    int,
    str,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    torch.memory_format,
    torch.layout,
    type(...),
)


class Opaque(TypeError):
    """An object whose tensors, if any, cannot be seen; the message names its type."""


def flatten(value: Any, tensors: list[Tensor]) -> Hashable:
    """The value without its tensors, hashable, numbers with their types; the tensors are appended."""
    kind = type(value)
    if kind in PLAIN_TENSORS:
        tensors.append(value)
        return Tensor
    if kind in _IMMUTABLE:
        return kind, value
    if kind in (float, complex):
        return kind, repr(value)  # tells -0.0 from 0.0, and is equal for NaN
    if isinstance(value, tuple | list):
        return kind, *(flatten(item, tensors) for item in value)
    if kind in (dict, OrderedDict):
        return kind, *((flatten(k, tensors), flatten(v, tensors)) for k, v in value.items())
    if kind is slice:
        return kind, *(flatten(part, tensors) for part in (value.start, value.stop, value.step))
    if _is_dataclass(value):
        return kind, *((name, flatten(getattr(value, name), tensors)) for name in _attributes(value))
    raise Opaque(kind.__qualname__)


def builder(value: Any, leaf: Callable[[Tensor], int]) -> Builder:
    """Builds the value again, with `values[leaf(tensor)]` in the place of each tensor."""
    kind = type(value)
    if kind in PLAIN_TENSORS:
        index = leaf(value)
        return lambda values: values[index]
    if kind in (*_IMMUTABLE, float, complex, torch.Size):
        return lambda values: value
    if isinstance(value, dict):
        return _dict_builder(value, leaf)
    if isinstance(value, tuple | list):
        items = [builder(item, leaf) for item in value]
        if kind in (list, tuple):
            return lambda values: kind([item(values) for item in items])
        if hasattr(kind, "_fields"):
            return lambda values: kind(*[item(values) for item in items])
        if hasattr(kind, "n_sequence_fields"):  # torch.return_types
            return lambda values: kind([item(values) for item in items])
    if _is_dataclass(value):
        return _attribute_builder(value, leaf, lambda values: object.__new__(kind))
    raise Opaque(kind.__qualname__)


def _dict_builder(value: Any, leaf: Callable[[Tensor], int]) -> Builder:
    kind: Any = type(value)
    items = [(key, builder(item, leaf)) for key, item in value.items()]
    if any(isinstance(key, Tensor) for key in value):
        raise Opaque("dict with tensors as keys")
    if kind is defaultdict:
        factory = value.default_factory
        return lambda values: defaultdict(factory, ((key, item(values)) for key, item in items))
    if kind in (dict, OrderedDict):
        return lambda values: kind((key, item(values)) for key, item in items)
    if not _is_dataclass(value):
        raise Opaque(kind.__qualname__)

    def filled(values: Sequence[Any]) -> Any:
        made = kind.__new__(kind)
        store = OrderedDict.__setitem__ if isinstance(made, OrderedDict) else dict.__setitem__
        for key, item in items:
            store(made, key, item(values))
        return made

    return _attribute_builder(value, leaf, filled)


def _attribute_builder(value: Any, leaf: Callable[[Tensor], int], make: Builder) -> Builder:
    attributes = [(name, builder(getattr(value, name), leaf)) for name in _attributes(value)]

    def build(values: Sequence[Any]) -> Any:
        made = make(values)
        for name, item in attributes:
            object.__setattr__(made, name, item(values))  # also where the class is frozen
        return made

    return build


def _attributes(value: Any) -> list[str]:
    fields = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
    return fields + [name for name in getattr(value, "__dict__", ()) if name not in fields]


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
