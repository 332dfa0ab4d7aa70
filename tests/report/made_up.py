"""Results that were never measured, for tests of what is made of results."""

from __future__ import annotations

import itertools
import random
from typing import Any

from fastcnn.workbench.report import results
from fastcnn.workbench.report.cases import Case
from fastcnn.workbench.report.results import Results
from fastcnn.workbench.report.roofline import Ceilings, floor_seconds
from fastcnn.workbench.report.timing import Samples

CEILINGS = Ceilings({"float32": 190e9}, {1 << 18: 120e9, 1 << 22: 90e9, 1 << 26: 28e9})
# How much longer than fastcnn each contender is made to take.
FACTORS = {"fastcnn": 1.0, "eager": 2.0, "compile": 1.6, "onnxruntime": 1.25, "ncnn": 0.8}


def row(case: Case, contender: str, seconds: float, seed: int = 0, **facts: Any) -> dict[str, Any]:
    noise = random.Random(f"{case.id} {contender} {seed}")
    samples = Samples(1, [seconds * noise.uniform(0.98, 1.02) for _ in range(20)])
    floor = floor_seconds(case, CEILINGS)
    extra = {
        "kind": case.kind, "subject": case.subject, "label": case.label, "batch": case.batch, "dtype": case.dtype,
        "device": case.device, "image": case.image, "networks": dict(case.networks), "flops": case.flops,
        "bytes": case.bytes, "floor": floor, "of_floor": floor / samples.median, "contender": contender,
        "error": 1e-6, "kernels": ["cpu.implicit_gemm"], **facts,
    }  # fmt: skip
    return results.row(f"{case.kind}[{case.id}-{contender}]", case.group, samples, extra)


def file(cases: list[Case], slower: float = 1.0, seed: int = 0) -> Results:
    """A result file of the cases; fastcnn alone takes `slower` times as long."""
    rows = [
        row(case, name, 1.7 * floor_seconds(case, CEILINGS) * factor * (slower if name == "fastcnn" else 1), seed,
            **({"memory": int(case.bytes * factor)} if case.kind == "network" else {}))
        for case, (name, factor) in itertools.product(cases, FACTORS.items())
        if name in ("fastcnn", "eager") or case.kind == "network"
    ]  # fmt: skip
    about = results.about("cpu", CEILINGS.to_json(), {"quick": True, "blocks": 3, "pause": 0.02, "warm_up": 0.01})
    about["missing"] = [{"case": cases[0].group, "contender": "mnn", "reason": "MNN is not installed <b>"}]
    return results.assemble(rows, about)
