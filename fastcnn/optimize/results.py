"""Results that lie and share memory as the given model's do: what is copied for it is found once a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastcnn.core import layout


@dataclass
class Part:
    """Where some results, all of them one tensor, lie in memory.

    form: a tensor without data, of the shape and in the strides that the model gave. offset: in elements.
    """

    results: list[int]
    form: Tensor
    offset: int = 0

    @property
    def end(self) -> int:
        """Behind the last element."""
        reach = (stride * (size - 1) for size, stride in zip(self.form.shape, self.form.stride(), strict=True))
        return self.offset + sum(reach) + 1 if self.form.numel() else self.offset


@dataclass
class Move:
    """Results that are brought together into memory of their own, or are views of an input."""

    parts: list[Part]
    input: int | None = None

    def run(self, inputs: Sequence[Tensor], results: list[Any]) -> None:
        if self.input is not None:
            memory, start = inputs[self.input], inputs[self.input].storage_offset()
        elif len(self.parts) > 1:
            memory, start = results[self.parts[0].results[0]].new_empty(max(part.end for part in self.parts)), 0
        for part in self.parts:
            x, shape, strides = results[part.results[0]], part.form.shape, part.form.stride()
            if self.input is None and len(self.parts) == 1:
                y = x.new_empty_strided(shape, strides)
            else:
                y = memory.as_strided(shape, strides, start + part.offset)
            if self.input is None:
                y.copy_(x)
            for i in part.results:
                results[i] = y


def moves(
    inputs: Sequence[Tensor], results: Sequence[Tensor], given: Sequence[Tensor], forms: Sequence[Tensor],
    frozen: set[int],
) -> list[Move]:  # fmt: skip
    """What makes `results` lie and share memory as what the model gave.

    given: what the model gave for the inputs; forms: tensors in the strides it gave them.
    frozen: results that are computed once and given away on each call.
    """
    storages = _storages([*inputs, *given])
    sources, wanted = storages[: len(inputs)], storages[len(inputs) :]
    memory = _storages([*inputs, *results])[len(inputs) :]
    found: list[Move] = []
    for storage in dict.fromkeys(wanted):
        members = [i for i, other in enumerate(wanted) if other == storage]
        parts, of_input = _parts(members, given, forms), storage < len(inputs)
        held = {memory[i] for i in members}
        others = {memory[i] for i in range(len(results)) if i not in members}
        right = frozen.isdisjoint(members) and held.isdisjoint(others)
        if of_input or len(parts) > 1:
            source = inputs[storage : storage + 1]  # empty where the storage is the results' own
            start, given_start = (_start(source or [t[i] for i in members]) for t in (results, given))
            for part in parts:
                part.offset = int(given[part.results[0]].storage_offset()) - given_start
            right = right and held == {storage if of_input else memory[members[0]]}
            if right and all(_lies_at(results[part.results[0]], part, start) for part in parts):
                continue
            if (not of_input or sources.count(storage) == 1) and _is_plain([*(given[i] for i in members), *source]):
                found.append(Move(parts, storage if of_input else None))
                continue
        elif right and held.isdisjoint(sources) and _is_alone(results[members[0]], given[members[0]], parts[0].form):
            continue
        found += [Move([part]) for part in parts]
    return found


def _start(tensors: Sequence[Tensor]) -> int:
    return min(int(t.storage_offset()) for t in tensors)


def _is_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether `as_strided` of one of these tensors' memory can give the others."""
    return len({t.dtype for t in tensors}) == 1 and not any(t.is_conj() or t.is_neg() for t in tensors)


def _parts(members: list[int], given: Sequence[Tensor], forms: Sequence[Tensor]) -> list[Part]:
    parts: dict[int, Part] = {}
    for i in members:
        parts.setdefault(id(given[i]), Part([], forms[i])).results.append(i)
    return list(parts.values())


def _lies_at(result: Tensor, part: Part, start: int) -> bool:
    return result.storage_offset() - start == part.offset and same_order(result, part.form)


def _is_alone(result: Tensor, given: Tensor, form: Tensor) -> bool:
    """Whether a result lies as the model's, with no more memory than that."""
    padded, owned = (t.untyped_storage().nbytes() > t.numel() * t.element_size() for t in (result, given))
    return (same_order(result, form) or not layout.is_gapless(form)) and (not padded or owned)


def _storages(tensors: Sequence[Any]) -> list[int]:
    """For each tensor the first one in the list that shares its storage."""
    first: dict[int, int] = {}
    return [first.setdefault(t.untyped_storage()._cdata, i) for i, t in enumerate(tensors)]


def same_order(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have the same strides, where a dimension has more than one element."""
    return all(s == t for n, s, t in zip(a.shape, a.stride(), b.stride(), strict=True) if n > 1)
