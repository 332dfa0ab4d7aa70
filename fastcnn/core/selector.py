"""How a kernel is chosen: ordered candidates, one predicate that rejects and explains, a remembered choice.

An operator (fastcnn/ops/<op>/__init__.py) owns a list of candidates, best first, the PyTorch reference last.
The first candidate whose `supports(problem)` gives no reason against is taken and remembered for the problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic

from torch import Tensor

from fastcnn.core.backend import current_backend
from fastcnn.core.candidate import Candidate, P
from fastcnn.core.cases import Case
from fastcnn.core.explain import Choice, recorders
from fastcnn.core.recall import key


class Selector(Generic[P]):
    """The candidates for one kind of problem, and which of them was taken for each problem so far.

    normalise(tensors, params) -> params   validates the scalar arguments and brings them into one form
    infer(tensors, params) -> problem      validates the tensors; the problem knows the output's shape
    definition(*tensors, *params)          the result in differentiable PyTorch operators
    setting()                              what a choice depends on that no argument shows, such as whether TF32 is
                                           allowed; None if there is no such thing
    cases, races                           problems by which every kernel is tried; those timed against PyTorch
    """

    # A remembered choice costs about 2 KB; shapes beyond the bound are chosen anew, never refused.
    MAX_REMEMBERED = 4096

    def __init__(
        self,
        name: str,
        *,
        normalise: Callable[[Sequence[Any], Sequence[Any]], tuple[Any, ...]],
        infer: Callable[[Sequence[Any], tuple[Any, ...]], P],
        definition: Callable[..., Tensor],
        candidates: Iterable[Candidate[P]],
        setting: Callable[[], Any] | None = None,
        cases: Sequence[Case] = (),
        races: Sequence[Case] = (),
    ) -> None:
        self.name = name
        self.setting = setting
        self.normalise = normalise
        self.infer = infer
        self.definition = definition
        self.candidates = tuple(candidates)
        self.cases, self.races = tuple(cases), tuple(races)
        self._runners: dict[Any, Any] = {}
        SELECTORS[name] = self

    def _key(self, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...], out: Tensor | None) -> Any:
        """What a choice is remembered by; None where it cannot be, because not every tensor is a plain one."""
        return key(tensors, params, out, self.setting)

    def _is_known(self, key: Any) -> bool:
        """Whether a choice is remembered; `explain` wants every choice made anew."""
        return key in self._runners and not recorders

    def _remember(self, key: Any, runner: Any) -> None:
        if len(self._runners) >= self.MAX_REMEMBERED:
            self._runners.clear()
        self._runners[key] = runner

    def forget(self) -> None:
        """Forgets every remembered choice: for a setting that the choice depends on."""
        self._runners.clear()

    def choose(self, problem: P) -> Choice:
        """The first candidate that takes the problem, within the backend in force, and the reasons against others."""
        demanded = current_backend()
        reasons: list[tuple[Candidate[P], str | None]] = []
        taken: Candidate[P] | None = None
        for candidate in self.candidates:
            if demanded not in ("auto", candidate.backend):
                reason: str | None = f"backend {demanded!r} was demanded"
            elif taken is not None and not recorders:
                break
            else:
                reason = candidate.supports(problem)
            reasons.append((candidate, reason))
            if taken is None and reason is None:
                taken = candidate
        choice = Choice(self.name, problem, tuple(reasons), taken)
        for recorder in recorders:
            recorder.choices.append(choice)
        return choice


SELECTORS: dict[str, Selector[Any]] = {}  # the operators, and those of fastcnn/ops/fused.py
