"""The suite: which cases and contenders a run has. pytest benchmarks/ and python -m fastcnn bench share it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from fastcnn.workbench.report import timing
from fastcnn.workbench.report.cases import FIVE, NETWORKS, Case, Selection
from fastcnn.workbench.report.contenders import CONTENDERS, PEERS
from fastcnn.workbench.report.timing import Effort

# An operator's peers are its own eager and compiled forms: converting each of 170 layers for four more engines
# takes an hour. --contenders runs them all the same.
OP_CONTENDERS = tuple(name for name in CONTENDERS if name not in PEERS)


@dataclass(frozen=True)
class Plan:
    """The cases and contenders of a run, and how long each is measured."""

    selection: Selection
    effort: Effort
    quick: bool = False
    only: tuple[str, ...] = ()  # contenders; all if empty
    memory: bool = False  # measure the memory of networks, too: a process of its own for every contender

    def cases(self, kind: str) -> list[Case]:
        return _cases(replace(self.selection, kinds=(kind,)))

    def contenders(self, case: Case) -> list[str]:
        """Who takes part in a case."""
        if self.only:
            return [name for name in self.only if CONTENDERS[name].takes(case)]
        names = OP_CONTENDERS if case.kind == "op" else tuple(CONTENDERS)
        if case.kind == "classifier":
            names = ("fastcnn", "eager", "compile")
        if case.image or (case.kind == "op" and self.quick and case.device == "cpu"):
            names = ("fastcnn", "eager")
        return [name for name in names if CONTENDERS[name].takes(case)]

    def with_memory(self, case: Case) -> bool:
        return self.memory and case.kind == "network" and case.subject in FIVE and case.batch == 1 and not case.image

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "quick": self.quick,
            "networks": list(self.selection.networks),
            "contenders": list(self.only),
            "seconds": self.effort.seconds,
            "blocks": self.effort.blocks,
            "pause": self.effort.pause,
            "warm_up": self.effort.warm_up,
        }


@functools.lru_cache(maxsize=16)
def _cases(selection: Selection) -> list[Case]:
    return selection.cases()


def plan(
    device: str = "cpu", quick: bool = False, networks: tuple[str, ...] = (), contenders: tuple[str, ...] = ()
) -> Plan:
    """The plan of a run: everything the device allows, or `quick`, the least that shows every operator and network.

    Raises:
        ValueError: an unknown device, network or contender; the message lists those there are.
    """
    for what, given, known in (
        ("device", (device,), ("cpu", "cuda")),
        ("network", networks, tuple(NETWORKS)),
        ("contender", contenders, tuple(CONTENDERS)),
    ):
        for name in given:
            if name not in known:
                raise ValueError(f"bench: unknown {what} {name!r}; allowed: {', '.join(known)}")
    selection = Selection(device=device, networks=networks or (FIVE if quick else tuple(NETWORKS)))
    if device == "cuda":
        dtypes = ("float16",) if quick else ("float32", "float16", "bfloat16")
        selection = replace(selection, dtypes=dtypes, most_flops=float("inf"))
    elif not quick:
        selection = replace(selection, op_batches=(1, 8))
    if quick:
        selection = replace(selection, op_batches=(1,), network_batches=(1, 8), images=(160, 320))
    return Plan(selection, timing.QUICK if quick else timing.FULL, quick, contenders, memory=not quick)
