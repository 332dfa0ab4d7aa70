"""The Python side of native plans (csrc/plan/plan.h): a network as one native call over one arena.

`PlanBuilder` gathers buffers and operations, `build` makes the `Plan`. A plan owns no activations, so several
threads may run it at once, each with an arena of its own from `arenas()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastcnn.core import native


@dataclass(eq=False)
class Buffer:
    """Memory for one value, or for several side by side; kind: "buffer" (of the arena), "input" or "output"."""

    bytes: int
    kind: str = "buffer"
    number: int = -1  # in the native plan, once an operation has used it


@dataclass(frozen=True)
class View:
    """Where a value lies: an offset into a buffer and a pixel (or row) stride, both in elements."""

    buffer: Buffer
    offset: int
    stride: int


class PlanBuilder:
    """Gathers a plan: inputs and outputs first, then the operations in their order."""

    def __init__(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        self._plan = native.extension.cpu.Plan()
        self._constants: list[Tensor] = []
        self.kernels: list[str] = []
        for buffer, kind in (*((b, "input") for b in inputs), *((b, "output") for b in outputs)):
            buffer.kind = kind
            self._declare(buffer)

    def _declare(self, buffer: Buffer) -> None:
        buffer.number = getattr(self._plan, buffer.kind)(buffer.bytes)

    def place(self, view: View | None, element_size: int) -> tuple[int, int] | None:
        """A value as the native plan names it."""
        if view is None:
            return None
        if view.buffer.number < 0:
            self._declare(view.buffer)
        return view.buffer.number, view.offset * element_size

    def constant(self, tensor: Tensor | None) -> int:
        """The address of a constant, which the plan keeps alive."""
        if tensor is None:
            return 0
        self._constants.append(tensor)
        return tensor.data_ptr()

    def call(self, operation: str, *arguments: Any, kernel: str = "") -> None:
        """Adds an operation: a method of the native plan."""
        getattr(self._plan, operation)(*arguments)
        self.kernels.append(f"{operation} {kernel}".rstrip())

    def build(self, slices: int = 1) -> Plan:
        """The plan; with slices, inputs and outputs are so many times as long as declared."""
        self._plan.finalize(slices)
        return Plan(self._plan, tuple(self.kernels), tuple(self._constants), slices)


@dataclass(frozen=True)
class Plan:
    """A finished plan; `kernels` names its operations in order."""

    native: native.extension.cpu.Plan
    kernels: tuple[str, ...]
    constants: tuple[Tensor, ...]
    slices: int = 1


def arenas() -> native.extension.cpu.Arenas | None:
    """Memory for the runs of plans, which native ones share; None where there are none."""
    return native.extension.cpu.Arenas() if native.unavailable is None else None
