"""Why each kernel was taken: choices are recorded while `explain` runs a function once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from fastcnn.core.candidate import Candidate


@dataclass(frozen=True)
class Choice:
    """One operator call as `explain` saw it: the problem, each candidate's reason, the candidate taken."""

    operator: str
    problem: Any  # a Problem, with the fields of its operator
    reasons: tuple[tuple[Candidate[Any], str | None], ...]
    taken: Candidate[Any] | None


@dataclass
class Explanation:
    """What `explain` found; printing it shows a table."""

    choices: list[Choice] = field(default_factory=list)

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        console = Console(width=140)
        with console.capture() as capture:
            for choice in self.choices:
                table = Table(title=f"{choice.operator}  {choice.problem.summary()}", title_justify="left")
                for column in ("", "backend", "kernel", "why"):
                    table.add_column(column)
                for candidate, reason in choice.reasons:
                    taken = candidate is choice.taken
                    why = "taken" if taken else reason or "applies, but a candidate above it was taken"
                    if candidate.note is not None and reason is None:
                        why += f"; {candidate.note(choice.problem)}"
                    table.add_row("->" if taken else "", candidate.backend, candidate.name, why)
                console.print(table)
        return capture.get().rstrip()

    __repr__ = __str__


recorders: list[Explanation] = []


def explain(fn_or_module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs a function or module once and returns, for each fastcnn operator it calls, why its kernel was taken.

    Returns an `Explanation`: printing it shows, a table an operator call, every candidate and the reason it was
    or was not taken; `.choices` holds the same as data. Gradients are not recorded during the run.
    """
    own = getattr(fn_or_module, "__fastcnn_explain__", None)
    if own is not None:
        return own(*args, **kwargs)
    if not callable(fn_or_module):
        raise TypeError(f"explain: fn_or_module is {type(fn_or_module).__name__}; a function or module is needed")
    recorder = Explanation()
    recorders.append(recorder)
    try:
        with torch.no_grad():
            fn_or_module(*args, **kwargs)
    finally:
        recorders.remove(recorder)
    return recorder
