"""What may run an operator: a kernel, the predicate that rejects with a reason, the callable that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

Runner = Callable[..., Tensor]


class Problem(Protocol):
    """What every operator's problem has: one call without its data, all that a kernel's choice may depend on."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def output_shape(self) -> tuple[int, ...]: ...

    @property
    def y_stride(self) -> int | None:
        """The output's pixel stride in elements; None if no kernel can write `out` in place."""

    @property
    def threads(self) -> int: ...

    def empty_output(self, like: Tensor) -> Tensor:
        """An uninitialised result of the dtype and device of `like`."""

    def summary(self) -> str:
        """The problem in words, for `explain` and error messages."""


P = TypeVar("P", bound=Problem)


@dataclass(frozen=True, eq=False)
class Candidate(Generic[P]):
    """One kernel that may run an operator.

    supports: the reason, in words, why the kernel cannot or should not take the problem; None if it takes it.
    prepare: the callable that runs the problem on its tensors; called once a problem.
    note: what `explain` adds about the kernel as it would run the problem: its configuration, an estimate.
    """

    backend: str
    name: str
    supports: Callable[[P], str | None]
    prepare: Callable[[P], Runner]
    dtypes: tuple[str, ...] = ("float32",)
    architectures: tuple[str, ...] = ()
    note: Callable[[P], str] | None = None


class Unsupported(ValueError):
    """No kernel of the demanded backend takes the problem; the message lists each one's reason."""
