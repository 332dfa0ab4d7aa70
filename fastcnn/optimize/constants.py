"""What is computed from weights alone: once, and again in the same memory when the weights have changed.

A network's constant nodes become entries, shared by the programs of all shapes. An entry's value is made when it is
asked for; its forms are what kernels read: packed weights, float32 copies. A plan holds the addresses of forms, so
`refresh` fills the same memory anew. Values that no plan reads are dropped once a program is built.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastcnn.optimize.network import Network, Node, map_nodes

# ---- arithmetic that the passes express: float64, as metadata too --------------------------------------------


def per_channel(number: Any, channels: int) -> Tensor:
    """A number, or one a channel in any of its broadcasting shapes, as `channels` float64 numbers."""
    if not isinstance(number, Tensor):
        return torch.full((channels,), number, dtype=torch.float64)
    return number.double().reshape(-1).expand(channels)


def negative(number: Tensor) -> Tensor:
    return -number.double()


def reciprocal(number: Tensor) -> Tensor:
    return 1 / number.double()


def batch_norm_scale(variance: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """weight / sqrt(variance + eps)."""
    scale = (variance.double() + eps).rsqrt()
    return scale if weight is None else scale * weight.double()


def batch_norm_shift(scale: Tensor, mean: Tensor, bias: Tensor | None) -> Tensor:
    """bias - mean * scale."""
    shift = -mean.double() * scale
    return shift if bias is None else shift + bias.double()


# ---- the store -------------------------------------------------------------------------------------------------


class Moved(Exception):
    """A weight is a tensor of another form or at another address: plans must be made anew."""


@dataclass(eq=False)
class Entry:
    """A constant: a tensor of the model's, or target(*args, **kwargs) of other entries."""

    target: Callable[..., Any] | None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    live: Tensor | None = None
    value: Any = None
    own: bool = True  # the value's memory is no weight's
    held: bool = False  # something holds the value itself
    # By what a form depends on: its memory, None where that is the value's own, and what fills it.
    forms: dict[Hashable, tuple[Tensor, Callable[[Tensor], Any] | None]] = field(default_factory=dict)


class Constants:
    """The entries of one model."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, Entry] = {}

    def entry(self, network: Network, node: Node) -> Entry:
        """The entry of a constant node; equal expressions share one."""
        return self._entry(network, node, {})

    def _entry(self, network: Network, node: Node, seen: dict[Node, Entry]) -> Entry:
        if node in seen:
            return seen[node]
        if node.op == "get_attr":
            made = Entry(None, live=network.attributes[str(node.target)])
            key: Hashable = id(made.live)  # the entry keeps it alive
        else:
            inputs = {n: self._entry(network, n, seen) for n in node.all_input_nodes}
            args, kwargs = map_nodes((node.args, node.kwargs), inputs.__getitem__)
            made = Entry(node.target, args, kwargs)
            key = node.target, repr(map_nodes((node.args, node.kwargs), lambda n: _Key(id(inputs[n]))))
        seen[node] = self._entries.setdefault(key, made)
        return seen[node]

    def value(self, entry: Entry, hold: bool = False) -> Any:
        entry.held |= hold
        if entry.live is not None:
            return entry.live
        if entry.value is None:
            entry.value = self._compute(entry)
        return entry.value

    def _compute(self, entry: Entry) -> Any:
        assert entry.target is not None
        args, kwargs = _map((entry.args, entry.kwargs), self.value)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            value = entry.target(*args, **kwargs)
        sources: list[Entry] = []
        _map((entry.args, entry.kwargs), sources.append)
        shared = [s for s in sources if s.live is not None or not s.own]
        entry.own = not any(_same_memory(part, self.value(s)) for s in shared for part in _tensors(value))
        return value

    def form(self, entry: Entry, name: Hashable, make: Callable[[Tensor], Tensor]) -> Tensor:
        """make(value), remembered under the name; made again by `refresh`, at the same address."""
        if name not in entry.forms:
            value = self.value(entry)
            made = make(value)
            if _same_memory(made, value):
                self.value(entry, hold=True)
                # An alias: the weight itself may be given other memory.
                entry.forms[name] = made.detach(), None
            else:
                entry.forms[name] = made, lambda value: made.copy_(make(value))
        return entry.forms[name][0]

    def filled(self, entry: Entry, name: Hashable, memory: Callable[[], Tensor], fill: Any) -> Tensor:
        """Memory that `fill(value, memory)` has filled, remembered under the name."""
        if name not in entry.forms:
            made = memory()
            fill(self.value(entry), made)
            entry.forms[name] = made, lambda value: fill(value, made)
        return entry.forms[name][0]

    def release(self) -> None:
        """Drops the values that nothing holds."""
        for entry in self._entries.values():
            if not entry.held:
                entry.value = None

    def refresh(self) -> None:
        """Computes everything anew from the weights as they are. Raises Moved where addresses no longer hold."""
        entries = list(self._entries.values())
        old = {entry: entry.value for entry in entries}
        for entry in entries:
            entry.value = None
        for entry in entries:
            if entry.held and entry.live is None:
                self._renew(entry, old[entry])
            for memory, fill in entry.forms.values():
                if fill is not None:
                    fill(self.value(entry))
                elif memory.data_ptr() != self.value(entry).data_ptr():
                    raise Moved
        self.release()

    def _renew(self, entry: Entry, old: Any) -> None:
        """Brings a value that something holds up to date, where it lies."""
        new = self.value(entry)
        for there, here in zip(_tensors(old), _tensors(new), strict=True):
            if (there.shape, there.stride(), there.dtype) != (here.shape, here.stride(), here.dtype):
                raise Moved
            if there.data_ptr() != here.data_ptr():
                if not entry.own:
                    raise Moved
                with torch.inference_mode(False), torch.no_grad():
                    _once(there).copy_(_once(here))
        entry.value = old


@dataclass(frozen=True)
class _Key:
    """An entry inside of another's key."""

    number: int


def _map(tree: Any, function: Callable[[Entry], Any]) -> Any:
    if isinstance(tree, Entry):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _map(item, function) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map(item, function) for item in tree) if type(tree) in (list, tuple) else [
            _map(item, function) for item in tree
        ]  # fmt: skip
    return tree


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for t in value if isinstance(t, Tensor)] if isinstance(value, tuple | list) else []


def _once(tensor: Tensor) -> Tensor:
    """The elements of an expanded tensor, each once."""
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _same_memory(a: Any, b: Any) -> bool:
    """Whether two tensors are the same bytes, or a view of one another in the same storage."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.device.type == "meta":
        return False
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() and a.untyped_storage().nbytes() > 0
