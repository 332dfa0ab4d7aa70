"""python -m fastcnn tune: checks by measurement the choices that rules made for the convolutions of networks.

Every algorithm that can compute a layer is timed beside the one that the rule of csrc/ops/conv2d/conv2d.cpp
takes. Each call reads other weights than the one before, as in a network, where they come from memory while the
activations are still in the caches. Nothing is stored: a choice from one pass on a noisy machine is no better than
the rule, and a rule that is wrong should be mended for everyone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fastcnn.core import native
from fastcnn.core.backend import use_backend
from fastcnn.core.candidate import Runner
from fastcnn.core.explain import explain
from fastcnn.ops.conv2d import cpu
from fastcnn.workbench.report import timing
from fastcnn.workbench.report.cases import Case, Selection
from fastcnn.workbench.report.measure import TOLERANCE, relative_error
from fastcnn.workbench.report.summary import geometric_mean
from fastcnn.workbench.report.timing import Effort, Run

BEYOND_CACHES = 64 << 20  # bytes of weights that no cache keeps until their next turn


@dataclass(frozen=True)
class Checked:
    """One layer: what the rule takes, and how long each algorithm needs.

    seconds: medians by algorithm. wrong: algorithms whose result was wrong; they were not timed.
    """

    case: Case
    chosen: str
    seconds: Mapping[str, float]
    wrong: tuple[str, ...] = ()

    @property
    def fastest(self) -> str:
        return min(self.seconds, key=self.seconds.__getitem__)

    @property
    def loss(self) -> float:
        """The time of what is taken over the fastest's."""
        return self.seconds[self.chosen] / self.seconds[self.fastest]


def cases(networks: Sequence[str], batches: Sequence[int]) -> list[Case]:
    """Every distinct convolution of the networks."""
    selection = Selection(kinds=("op",), networks=tuple(networks), op_batches=tuple(batches))
    return [case for case in selection.cases() if case.subject == "conv2d"]


def check(case: Case, effort: Effort = timing.QUICK) -> Checked:
    """Times every algorithm that can compute a convolution, after checking its result against float64."""
    workload = case.build()
    given = {**workload.inputs, **dict(workload.fast.named_parameters())}
    tensors = [given.get(name) for name in ("input", "weight", "bias", "residual")]
    with use_backend("cpu"):
        (choice,) = explain(workload.fast, *workload.inputs.values()).choices
    assert choice.taken is not None
    runs: dict[str, Run] = {}
    wrong = []
    with torch.no_grad():
        truth = workload.truth()
        for name, runner in _capable(choice.problem):
            run = _rotated(runner, tensors)
            if relative_error(run(), truth) > TOLERANCE[case.dtype]:
                wrong.append(name)
            else:
                runs[name] = run
        samples = timing.interleave(runs, effort)
    return Checked(case, choice.taken.name, {name: mine.median for name, mine in samples.items()}, tuple(wrong))


def _rotated(runner: Runner, tensors: Sequence[Any]) -> Run:
    """The call with one of several copies of the weight, in turn."""
    input, weight, *rest = tensors
    copies = min(32, math.ceil(BEYOND_CACHES / (weight.numel() * weight.element_size())))
    weights = [weight, *(weight.clone() for _ in range(copies - 1))]
    for each in weights:
        runner(input, each, *rest, None)  # packs it
    turns = itertools.cycle(weights)
    return lambda: runner(input, next(turns), *rest, None)


def _capable(problem: Any) -> Iterator[tuple[str, Runner]]:
    """Every algorithm that can compute the problem within the tolerance, whatever the rule says of its speed."""
    for candidate in cpu.CANDIDATES:
        if "tolerance" in (candidate.supports(problem) or ""):
            continue
        try:
            yield candidate.name, candidate.prepare(problem)
        except ValueError:
            continue  # incapable: it says so when it is made


def run(console: Console, networks: Sequence[str], batches: Sequence[int], effort: Effort) -> list[Checked]:
    """Checks every layer, and prints those where the rule loses most.

    Raises:
        ImportError: the native kernels were not built.
        AssertionError: an algorithm computed something wrong.
    """
    from rich.progress import track

    if native.unavailable is not None:
        raise ImportError(native.unavailable)
    chosen = cases(networks, batches)
    checked = [check(case, effort) for case in track(chosen, "timing", console=console, transient=True)]
    table = Table("layer", "batch", "rule takes", "us", "fastest", "us", "loss", title_justify="left")
    table.title = f"{len(checked)} convolutions, {torch.get_num_threads()} threads; where the rule loses most"
    for layer in sorted(checked, key=lambda layer: -layer.loss)[:20]:
        us = {name: f"{1e6 * seconds:.1f}" for name, seconds in layer.seconds.items()}
        table.add_row(
            layer.case.label, str(layer.case.batch), layer.chosen, us[layer.chosen], layer.fastest,
            us[layer.fastest], f"{layer.loss:.2f}",
        )  # fmt: skip
    console.print(table)
    mean, agreed = geometric_mean(layer.loss for layer in checked), sum(layer.loss < 1.05 for layer in checked)
    console.print(f"the rule takes {mean:.3f} times the fastest (geometric mean); {agreed} layers lose less than 5 %")
    wrong = [f"{layer.case.group}: {name}" for layer in checked for name in layer.wrong]
    if wrong:
        raise AssertionError(f"wrong results: {'; '.join(wrong)}")
    return checked
