"""One case: prepare every contender, check its result against float64, and only then time them together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastcnn.core.explain import explain
from fastcnn.workbench.report import memory, results, roofline, timing
from fastcnn.workbench.report.cases import Case, Workload
from fastcnn.workbench.report.contenders import CONTENDERS
from fastcnn.workbench.report.peers import Missing
from fastcnn.workbench.report.roofline import Ceilings
from fastcnn.workbench.report.timing import Effort, Samples

# The largest relative error (L2, against float64) of a result that is still timed. It catches a wrong kernel, not
# an inexact one: the error itself stands in every row. One wrong element in a million weighs about 1e-3.
TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}


class WrongResult(AssertionError):
    """A contender whose result is wrong; it is not timed."""


@dataclass
class Measurement:
    """A contender that was timed."""

    case: Case
    contender: str
    samples: Samples
    extra_info: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.case.kind}[{self.case.id}-{self.contender}]"

    def row(self) -> dict[str, Any]:
        return results.row(self.name, self.case.group, self.samples, self.extra_info)


def relative_error(result: Any, truth: Tensor) -> float:
    """|result - truth| / |truth|, L2; infinite where shapes differ or a number is not finite."""
    found = torch.from_numpy(result) if isinstance(result, np.ndarray) else result
    found = found.detach().to("cpu", torch.float64)
    if found.numel() != truth.numel():
        return math.inf
    difference = (found.reshape(truth.shape) - truth).norm() / truth.norm().clamp_min(1e-300)
    return float(difference) if difference.isfinite() else math.inf


def measure(
    case: Case,
    contenders: Iterable[str],
    ceilings: Ceilings,
    effort: Effort = timing.FULL,
    with_memory: bool = False,
) -> dict[str, Measurement | Missing | WrongResult]:
    """Times the contenders of one case in turns.

    A contender that cannot take part is returned as Missing, one with a wrong result as WrongResult; neither is
    timed. An error of fastcnn itself is raised. `with_memory` also measures the memory each one holds.
    """
    workload = case.build()
    truth = workload.truth().cpu()
    outcome: dict[str, Measurement | Missing | WrongResult] = {}
    runs: dict[str, Any] = {}
    errors: dict[str, float] = {}
    with torch.no_grad():
        for name in contenders:
            try:
                run = CONTENDERS[name].prepare(workload)
                result = run()
            except Missing as missing:
                outcome[name] = missing
                continue
            except Exception as error:
                if name.startswith("fastcnn"):
                    raise
                reason = " ".join(str(error).split())[:300]
                outcome[name] = Missing(f"{type(error).__name__}: {reason}")
                continue
            errors[name] = relative_error(result, truth)
            if errors[name] > TOLERANCE[case.dtype]:
                outcome[name] = WrongResult(
                    f"{case.group}: {name} has a relative error of {errors[name]:.1e} against float64, "
                    f"at most {TOLERANCE[case.dtype]:.0e} is allowed; it was not timed"
                )
                continue
            runs[name] = run
        samples = timing.interleave(runs, effort, case.device) if runs else {}
    shared = _facts(case, ceilings)
    for name, mine in samples.items():
        facts = {**shared, "contender": name, "error": errors[name], "quantiles": _quantiles(mine)}
        facts["of_floor"] = facts["floor"] / mine.median
        if name == "fastcnn":
            facts["kernels"] = _kernels(workload)
            if case.kind == "classifier":
                facts["share"] = _share(workload)
        if with_memory:
            facts["memory"] = memory.measure(case, name, torch.get_num_threads())
        outcome[name] = Measurement(case, name, mine, facts)
    return outcome


def _facts(case: Case, ceilings: Ceilings) -> dict[str, Any]:
    return {
        "kind": case.kind,
        "subject": case.subject,
        "label": case.label,
        "batch": case.batch,
        "dtype": case.dtype,
        "device": case.device,
        "image": case.image,
        "networks": dict(case.networks),
        "flops": case.flops,
        "bytes": case.bytes,
        "floor": roofline.floor_seconds(case, ceilings),
        "device_name": results.device_name(case.device),
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cudnn.allow_tf32 if case.device == "cuda" else None,
        "clock_mhz": results.clock_megahertz(case.device),
        "versions": results.versions(),
        "commit": results.commit()["id"],
    }


def _quantiles(samples: Samples) -> dict[str, float]:
    return {f"p{round(100 * q)}": samples.quantile(q) for q in (0.1, 0.25, 0.5, 0.75, 0.9)}


def _kernels(workload: Workload) -> list[str]:
    """Which kernels dispatch chose for an operator; a network's are many, `fastcnn.explain` lists them."""
    if workload.case.kind in ("network", "classifier"):
        return []
    choices = explain(workload.fast, *workload.inputs.values()).choices
    return [f"{c.taken.backend}.{c.taken.name}" for c in choices if c.taken is not None]


def _share(workload: Workload) -> float:
    """How much of a classifier's FLOPs run on our kernels, after the passes."""
    from torch.utils.flop_counter import FlopCounterMode

    optimised: Any = workload.optimised
    inputs = tuple(workload.inputs.values())
    ours, program = explain(optimised, *inputs).flops, optimised._fastcnn.program(*inputs)
    with FlopCounterMode(display=False) as counter:
        program(inputs)
    counts = counter.get_flop_counts()["Global"]
    others = sum(count for op, count in counts.items() if not str(op).startswith("fastcnn."))
    return ours / (ours + others)
