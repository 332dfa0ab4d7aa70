"""Claim 1: two stacked 3x3 convolutions against one 5x5."""

from __future__ import annotations

import torch
from torch import nn

from fastcnn.nn import Conv2d
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
    median,
    spread,
)
from fastcnn.workbench.demo import randomise
from fastcnn.workbench.report.timing import Effort

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels in and out, side of the picture
BATCHES = (1, 8)
SHARE = 18 / 25
ALLOWED = 1.1  # a ratio of times counts as 18/25 up to a tenth above it
TIMES = "a 5x5 convolution and two 3x3, C channels in and out, each with bias and ReLU"


def layers(channels: int) -> dict[str, nn.Module]:
    """The 5x5 convolution and the stack."""
    one = Conv2d(channels, channels, 5, padding=2, activation="relu")
    first, second = (Conv2d(channels, channels, 3, padding=1, activation="relu") for _ in range(2))
    made = {"5x5": nn.Sequential(one), "3x3, 3x3": nn.Sequential(first, second)}
    return {name: randomise(model.eval(), seed=0) for name, model in made.items()}


def measure(effort: Effort, progress: Progress) -> Found:
    rows: list[Row] = []
    for channels, side in SHAPES:
        models = layers(channels)
        weights = {name: sum(p.numel() for p in m.parameters() if p.dim() == 4) for name, m in models.items()}
        for batch in BATCHES:
            progress(f"{channels} channels, {side}x{side}, batch {batch}")
            torch.manual_seed(0)
            shape = (batch, channels, side, side)
            times = compare(models, torch.randn(shape), effort)
            work = {name: flops(model, *shape) for name, model in models.items()}
            row: Row = {
                "C": channels, "picture": f"{side}x{side}", "batch": batch,
                "weights, ratio": weights["3x3, 3x3"] / weights["5x5"],
                "operations, ratio": work["3x3, 3x3"] / work["5x5"],
            }  # fmt: skip
            for engine in ENGINES:
                row[f"{engine} 5x5, ms"] = times[engine]["5x5"]
                row[f"{engine} two 3x3, ms"] = times[engine]["3x3, 3x3"]
                row[f"{engine}, ratio"] = times[engine]["3x3, 3x3"]["ms"] / times[engine]["5x5"]["ms"]
            rows.append(row)
    return Found({TIMES: rows})


def judge(tables: Tables) -> list[Part]:
    rows = tables[TIMES]
    parts = [
        Part(
            all(abs(row[f"{what}, ratio"] - SHARE) < 1e-9 for row in rows),
            f"two 3x3 have {median(rows, f'{what}, ratio'):.2f} of the {what} of a 5x5 (18/25 = {SHARE:.2f})",
        )
        for what in ("weights", "operations")
    ]
    for engine in ENGINES:
        column = f"{engine}, ratio"
        parts.append(
            Part(
                median(rows, column) <= SHARE * ALLOWED and all(row[column] < 1 for row in rows),
                f"{engine}: two 3x3 take {spread(rows, column)} of the time of a 5x5 "
                f"(asked: less in every row, and the median at most {SHARE * ALLOWED:.2f})",
            )
        )
    return parts


CLAIM = Claim(
    number=1,
    title="Two stacked 3x3 convolutions replace a 5x5",
    sentence="Two 3x3 layers see what a 5x5 sees with 18/25 of the weights and of the operations, a gain of 28 %.",
    source="Simonyan, Zisserman 2014, section 2.3 (receptive field and weights); Szegedy, Vanhoucke, Ioffe, Shlens, "
    "Wojna, Rethinking the Inception Architecture, 2015, section 3.1 (the 28 %)",
    measured="Weights, operations and time, a layer at the sizes of VGG's and ResNet's stages.",
    measure=measure,
    judge=judge,
)
