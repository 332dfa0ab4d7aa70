"""Figures drawn from results: who is fastest, how much, and what got slower."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fastcnn.workbench.report.results import Results, Row

# How contenders are ordered and called wherever they stand beside each other.
NAMES = {
    "fastcnn": "fastcnn",
    "fastcnn_unpacked": "fastcnn, prepack=False",
    "fastcnn_layers": "fastcnn, not optimised",
    "fastcnn_autograd": "fastcnn, recording gradients",
    "eager": "PyTorch",
    "eager_autograd": "PyTorch, recording gradients",
    "compile": "torch.compile",
    "cudnn": "fused cuDNN",
    "cudnn_graph": "fused cuDNN, graphed",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "ncnn": "ncnn",
    "mnn": "MNN",
}
ORDER = tuple(NAMES)


def others(contenders: dict[str, Row]) -> dict[str, Row]:
    """The contenders that are not this project's own."""
    return {name: contenders[name] for name in ORDER if name in contenders and not name.startswith("fastcnn")}


def best_other(contenders: dict[str, Row]) -> Row | None:
    """The fastest of the others: the one to beat."""
    return min(others(contenders).values(), key=lambda row: row.seconds, default=None)


def speed_up(contenders: dict[str, Row], over: str) -> float | None:
    """Time of contender `over` ("best": the fastest of the others) divided by fastcnn's."""
    own = contenders.get("fastcnn")
    other = best_other(contenders) if over == "best" else contenders.get(over)
    return None if own is None or other is None else other.seconds / own.seconds


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


@dataclass(frozen=True)
class Change:
    """A row of fastcnn that got slower; `relative` is its time over eager PyTorch's in the same run."""

    row: Row
    before: float
    relative: float | None
    relative_before: float | None

    @property
    def ratio(self) -> float:
        return self.row.seconds / self.before


def slower(new: Results, old: Results, by: float = 1.1) -> list[Change]:
    """fastcnn's rows that take more than `by` times as long as in `old`, the worst first.

    A machine that was slower as a whole is no change of ours: where both runs timed eager PyTorch, the time
    over eager's must have grown as much, too.
    """
    found = []
    for case, contenders in new.cases.items():
        own, before = contenders.get("fastcnn"), old.cases.get(case, {})
        if own is None or "fastcnn" not in before:
            continue
        relative, relative_before = (
            rows["fastcnn"].seconds / rows["eager"].seconds if "eager" in rows else None
            for rows in (contenders, before)
        )
        change = Change(own, before["fastcnn"].seconds, relative, relative_before)
        grown = relative is None or relative_before is None or relative / relative_before > by
        if change.ratio > by and grown:
            found.append(change)
    return sorted(found, key=lambda change: -change.ratio)


def missing_reasons(made: Results) -> dict[str, tuple[str, int]]:
    """For each contender that did not take part somewhere: a reason and how many cases it missed."""
    found: dict[str, tuple[str, int]] = {}
    for entry in made.about["missing"]:
        reason, count = found.get(entry["contender"], (entry["reason"], 0))
        found[entry["contender"]] = (reason, count + 1)
    return found


def title(row: Row) -> str:
    """A case in words."""
    image = f", {row.image} px" if row.image else ""
    dtype = f", {row.dtype}" if row.dtype != "float32" else ""
    return f"{row.label}, batch {row.batch}{image}{dtype}"


def seconds(value: float) -> str:
    """A time in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}" if value / scale < 100 else f"{value / scale:.0f} {unit}"
    return f"{value / 1e-9:.0f} ns"
