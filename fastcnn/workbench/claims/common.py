"""What every claim is made of: its sentence, its measurement, its verdict; and how models are timed."""

from __future__ import annotations

import copy
import functools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastcnn.optimize import optimize
from fastcnn.workbench.report.measure import TOLERANCE, WrongResult, relative_error
from fastcnn.workbench.report.plain import plain
from fastcnn.workbench.report.timing import Effort, Run, Samples, interleave

Row = dict[str, Any]  # a column's title to a word, a number, or a time as `milliseconds` has it
Tables = dict[str, list[Row]]  # by title
Progress = Callable[[str], None]  # told what is being measured

HOLDS, IN_PART, FAILS = "holds", "holds in part", "does not hold here"
ENGINES = ("fastcnn", "PyTorch")


class Part(NamedTuple):
    """One thing that a claim says, in the words and figures of the rows, and whether they bear it out."""

    holds: bool
    text: str


@dataclass(frozen=True)
class Found:
    """What a claim's measurement found: tables, and curves to draw."""

    tables: Tables
    curves: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A claim of a paper. `measure` finds tables; `judge` says from these alone what holds."""

    number: int
    title: str
    sentence: str
    source: str
    measured: str
    measure: Callable[[Effort, Progress], Found]
    judge: Callable[[Tables], list[Part]]


def verdict(parts: list[Part]) -> str:
    """Holds if every part does, in part if some do."""
    count = sum(part.holds for part in parts)
    return HOLDS if count == len(parts) else IN_PART if count else FAILS


def milliseconds(samples: Samples) -> dict[str, float]:
    """A time as the rows have it: the median and the 10th and 90th percentiles, in milliseconds."""
    return {"ms": 1e3 * samples.median, "p10": 1e3 * samples.quantile(0.1), "p90": 1e3 * samples.quantile(0.9)}


def timed(runs: Mapping[str, Run], truths: Mapping[str, Tensor], effort: Effort) -> dict[str, dict[str, float]]:
    """Every call's time, taken in turns, after its result was compared with `truths`, by the same name.

    Raises:
        WrongResult: a result is off by more than 1e-4 (L2, relative); nothing is timed then.
    """
    for name, run in runs.items():
        error = relative_error(run(), truths[name])
        if error > TOLERANCE["float32"]:
            raise WrongResult(f"{name}: relative error {error:.1e} against float64; it was not timed")
    return {name: milliseconds(samples) for name, samples in interleave(runs, effort).items()}


def compare(models: Mapping[str, nn.Module], input: Tensor, effort: Effort) -> dict[str, dict[str, dict[str, float]]]:
    """Times models in evaluation mode through both engines, all taking turns: [engine][model].

    fastcnn: after `fastcnn.optimize`; PyTorch: the same network in PyTorch's own operators, eager, channels_last.
    """
    input = input.contiguous(memory_format=torch.channels_last) if input.dim() == 4 else input
    runs: dict[str, Run] = {}
    truths: dict[str, Tensor] = {}
    for name, model in models.items():
        eager = plain(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fast = optimize(model)
        with torch.inference_mode():
            truth = copy.deepcopy(eager).double()(input.double())
        for engine, module in zip(ENGINES, (fast, eager), strict=True):
            runs[f"{engine}: {name}"] = functools.partial(module, input)
            truths[f"{engine}: {name}"] = truth
    with torch.inference_mode():
        times = timed(runs, truths, effort)
    return {engine: {name: times[f"{engine}: {name}"] for name in models} for engine in ENGINES}


def flops(model: nn.Module, *shape: int) -> int:
    """Operations of convolutions and linear layers by the direct algorithm, a multiply-add counting as two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        plain(copy.deepcopy(model).to("meta"))(torch.empty(shape, device="meta"))
    return counter.get_total_flops()


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def median(rows: list[Row], column: str) -> float:
    return statistics.median(row[column] for row in rows)


def spread(rows: list[Row], column: str) -> str:
    """A column's least, median and largest value, in words."""
    values = [row[column] for row in rows]
    return f"{min(values):.2f} to {max(values):.2f}, median {statistics.median(values):.2f}"
