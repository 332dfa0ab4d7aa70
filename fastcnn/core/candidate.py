"""What may run an operator: a kernel, the predicate that rejects with a reason, the callable that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Runner = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One kernel that may run an operator.

    supports: the reason, in words, why the kernel cannot or should not take the problem; None if it takes it.
    prepare: the callable that runs the problem on its tensors; called once a problem.
    note: what `explain` adds about the kernel as it would run the problem: its configuration, an estimate.
    """

    backend: str
    name: str
    supports: Callable[[Any], str | None]
    prepare: Callable[[Any], Runner]
    dtypes: tuple[str, ...] = ("float32",)
    architectures: tuple[str, ...] = ()
    note: Callable[[Any], str] | None = None


class Unsupported(ValueError):
    """No kernel of the demanded backend takes the problem; the message lists each one's reason."""
