"""Two operators in a row that one kernel may compute, nothing written between them.

`optimize` makes one node of such a pair (fastcnn/optimize/vocabulary.py); the node asks its `Fused` for a kernel, and
calls the two operators where there is none. So a pair has no gradient, no entry in torch.library and no reference
kernel of its own: those are the two operators'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from fastcnn.backends import reference
from fastcnn.core import layout
from fastcnn.core.candidate import Candidate, Problem, Runner
from fastcnn.core.cases import Case
from fastcnn.core.operator import Operator
from fastcnn.core.recall import is_inference
from fastcnn.core.selector import Selector

A = TypeVar("A", bound=Problem)
B = TypeVar("B", bound=Problem)


@dataclass(frozen=True)
class FusedProblem(Generic[A, B]):
    """second(first(tensors)): the two problems, and the arguments of each operator in its one form."""

    first: A
    second: B
    params: tuple[tuple[Any, ...], tuple[Any, ...]]

    @property
    def device(self) -> torch.device:
        return self.first.device

    @property
    def dtype(self) -> torch.dtype:
        return self.first.dtype

    @property
    def threads(self) -> int:
        return self.first.threads

    @property
    def y_stride(self) -> int | None:
        return self.second.y_stride

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.second.output_shape

    def empty_output(self, like: Tensor) -> Tensor:
        return layout.empty(self.output_shape, like)

    def summary(self) -> str:
        return f"{self.first.summary()}; then {self.second.summary()}"


def definition(first: Operator[A], second: Operator[B]) -> Callable[..., Tensor]:
    """second(first(*tensors)) in PyTorch operators, called with (*tensors, params of first, params of second)."""

    def compute(*arguments: Any) -> Tensor:
        *tensors, first_params, second_params = arguments
        return second.definition(first.definition(*tensors, *first_params), *second_params)

    return compute


def in_pytorch(name: str, first: Operator[A], second: Operator[B]) -> Candidate[FusedProblem[A, B]]:
    """What serves a call whose kernel fails to launch."""
    return reference.candidate(name, definition(first, second), lambda problem: problem.params)


class Fused(Selector[FusedProblem[A, B]]):
    """second(first(tensors)), where a kernel computes both; `params` is (those of first, those of second)."""

    def __init__(
        self,
        name: str,
        first: Operator[A],
        second: Operator[B],
        *,
        candidates: Iterable[Candidate[FusedProblem[A, B]]],
        cases: Sequence[Case],
        races: Sequence[Case],
    ) -> None:
        def normalise(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
            return first.normalise(tensors, params[0]), second.normalise((), params[1])

        def infer(tensors: Sequence[Any], params: tuple[Any, ...]) -> FusedProblem[A, B]:
            problem = first.infer(tensors, params[0])
            between = layout.empty(problem.output_shape, torch.empty(0, dtype=problem.dtype, device="meta"))
            behind: Any = second.infer((between, None), params[1])
            return FusedProblem(problem, behind._replace(device=problem.device), (params[0], params[1]))

        super().__init__(
            name,
            normalise=normalise,
            infer=infer,
            definition=definition(first, second),
            candidates=candidates,
            setting=first.setting,
            cases=cases,
            races=races,
        )

    def runner(self, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...]) -> Runner | None:
        """The kernel for (*tensors, None); None where none takes the problem, or gradients or tracers take part."""
        if torch.compiler.is_compiling() or not is_inference(tensors):
            return None
        key = self._key(tensors, params, None)
        if key is None:
            return None
        if not self._is_known(key):
            problem = self.infer((*tensors, None), self.normalise(tensors, params))
            taken = self.choose(problem).taken
            self._remember(key, None if taken is None else taken.prepare(problem))
        return self._runners.get(key)
