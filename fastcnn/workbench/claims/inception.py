"""Claim 3: GoogLeNet against networks without Inception modules that are about as accurate."""

from __future__ import annotations

import torch

from fastcnn.models import get_model
from fastcnn.workbench.claims.common import (
    ENGINES,
    Claim,
    Found,
    Part,
    Progress,
    Row,
    Tables,
    compare,
    flops,
    parameters,
)
from fastcnn.workbench.demo import randomise
from fastcnn.workbench.report.timing import Effort

# Top-1 and top-5 accuracy on ImageNet's validation pictures, of the IMAGENET1K_V1 weights that torchvision publishes
# ("Table of all available classification weights" in its documentation): one recipe's worth of comparison for all four.
NETWORKS: tuple[tuple[str, str, float, float], ...] = (
    ("googlenet", "torchvision", 69.778, 89.530),
    ("vgg11", "A", 69.020, 88.628),
    ("vgg16", "D", 71.592, 90.382),
    ("resnet18", "B", 69.758, 89.078),
)
BATCHES = (1, 4)
ASKED = 2.0
TIMES = "GoogLeNet and networks about as accurate, 224x224"


def measure(effort: Effort, progress: Progress) -> Found:
    models = {}
    for name, variant, *_ in NETWORKS:
        arguments = {"aux_logits": False} if name == "googlenet" else {}
        models[name] = randomise(get_model(name, variant=variant, **arguments).eval(), seed=0)
    rows: list[Row] = []
    for batch in BATCHES:
        progress(f"batch {batch}")
        torch.manual_seed(0)
        times = compare(models, torch.randn(batch, 3, 224, 224), effort)
        for name, _, top1, top5 in NETWORKS:
            row: Row = {
                "network": name, "top-1, %": top1, "top-5, %": top5, "batch": batch,
                "parameters, M": parameters(models[name]) / 1e6,
                "GFLOP": flops(models[name], batch, 3, 224, 224) / 1e9,
            }  # fmt: skip
            for engine in ENGINES:
                row[f"{engine}, ms"] = times[engine][name]
                row[f"{engine}, x GoogLeNet"] = times[engine][name]["ms"] / times[engine]["googlenet"]["ms"]
            rows.append(row)
    return Found({TIMES: rows})


def judge(tables: Tables) -> list[Part]:
    parts = []
    for name, *_ in NETWORKS[1:]:
        for engine in ENGINES:
            rows = [row for row in tables[TIMES] if row["network"] == name]
            ratios = [row[f"{engine}, x GoogLeNet"] for row in rows]
            cases = " and ".join(f"{r:.2f} (batch {row['batch']})" for r, row in zip(ratios, rows, strict=True))
            parts.append(
                Part(
                    min(ratios) >= ASKED,
                    f"{engine}: {name} ({rows[0]['top-1, %']:.1f} % top-1) takes {cases} times as long as GoogLeNet "
                    f"({NETWORKS[0][2]:.1f} %) (asked: at least {ASKED:g})",
                )
            )
    return parts


CLAIM = Claim(
    number=3,
    title="Inception networks are 2 to 3 times faster than equally good ones",
    sentence="Networks with Inception modules are 2 to 3 times faster than similarly performing networks without them.",
    source="Szegedy et al., Going Deeper with Convolutions, 2014, end of section 4",
    measured="Time of GoogLeNet, VGG-11, VGG-16 and ResNet-18, whose published accuracies lie within three points. "
    "Weights are random: speed does not depend on them. ResNet-18 is younger than the claim.",
    measure=measure,
    judge=judge,
)
