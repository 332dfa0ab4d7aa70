"""Argument checks whose messages say which argument, what it was, and what is allowed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastcnn.core import activations

MAX_INT = 2**31 - 1
# Beyond this no machine can hold the output; below it an allocation may still fail, as in PyTorch.
MAX_ELEMENTS = 2**42


def tensor(op: str, name: str, value: Any, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} is {_kind(value)}; a torch.Tensor is needed")
    if value.layout is not torch.strided:
        raise TypeError(f"{op}: {name} has layout {value.layout}; a strided (dense) tensor is needed")


def rank(op: str, name: str, value: Tensor, allowed: Sequence[int]) -> None:
    if value.dim() not in allowed:
        wanted = " or ".join(f"{d}-D" for d in allowed)
        raise ValueError(f"{op}: {name} is {value.dim()}-D with shape {shape(value)}; {wanted} is needed")


def nonempty(op: str, name: str, value: Tensor, dims: Sequence[int] = (1, 2, 3)) -> None:
    if any(value.shape[d] == 0 for d in dims):
        raise ValueError(f"{op}: {name} has shape {shape(value)}; only the batch may be 0")


def same_dtype_and_device(op: str, reference: tuple[str, Tensor], *others: tuple[str, Tensor | None]) -> None:
    name, first = reference
    for other_name, other in others:
        if other is None:
            continue
        if other.dtype != first.dtype:
            raise TypeError(f"{op}: {other_name} is {other.dtype}, {name} is {first.dtype}; they must be the same")
        if other.device != first.device:
            raise ValueError(
                f"{op}: {other_name} is on {other.device}, {name} is on {first.device}; they must be on one device"
            )


def integer(op: str, name: str, value: Any, minimum: int, maximum: int = MAX_INT) -> int:
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if isinstance(value, Tensor) and value.dim() == 0 and value.dtype in (torch.int64, torch.int32):
        value = int(value)  # a size under torch.jit.trace; PyTorch takes it too
    if isinstance(value, bool | Tensor):
        raise TypeError(f"{op}: {name} is {_kind(value)}; an int is needed")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} is {_kind(value)}; an int is needed") from None
    if not minimum <= number <= maximum:
        raise ValueError(f"{op}: {name} is {number}; allowed: {minimum} to {maximum}")
    return number


def real(op: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{op}: {name} is {_kind(value)}; a float is needed")
    return float(value)


def flag(op: str, name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} is {_kind(value)}; True or False is needed")
    return value


def pair(op: str, name: str, value: Any, minimum: int) -> tuple[int, int]:
    """An int, or one or two ints, as (vertical, horizontal)."""
    if isinstance(value, str) or not isinstance(value, Sequence | torch.Size):
        number = integer(op, name, value, minimum)
        return number, number
    if len(value) not in (1, 2):
        raise ValueError(f"{op}: {name} has {len(value)} elements: {tuple(value)}; an int or two ints are needed")
    numbers = [integer(op, name, v, minimum) for v in value]
    return numbers[0], numbers[-1]


def activation(op: str, value: Any) -> str | None:
    if value is None:
        return None
    try:
        return activations.named(value).name
    except ValueError as error:
        raise ValueError(f"{op}: {error}") from None


def output_size(op: str, shape: Sequence[int]) -> None:
    elements = 1
    for size in shape:
        elements *= size
    if elements > MAX_ELEMENTS:
        raise ValueError(
            f"{op}: the output would have shape {tuple(shape)}, {elements} elements; at most {MAX_ELEMENTS}"
        )


def out(op: str, value: Tensor | None, like: tuple[str, Tensor], expected: Sequence[int]) -> None:
    tensor(op, "out", value, optional=True)
    if value is None:
        return
    same_dtype_and_device(op, like, ("out", value))
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{op}: out has shape {shape(value)}; the output has shape {tuple(expected)}")


def shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)


def _kind(value: Any) -> str:
    return "None" if value is None else f"{value!r:.60} ({type(value).__name__})"
