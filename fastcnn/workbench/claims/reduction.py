"""Claim 2: 1x1 reductions in front of GoogLeNet's 3x3 and 5x5 convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastcnn import functional as F
from fastcnn.models.googlenet import INCEPTIONS
from fastcnn.nn import Conv2d, Inception, MaxPool2d
from fastcnn.workbench.claims.common import ENGINES, Claim, Found, Part, Progress, Row, Tables, compare, flops, spread
from fastcnn.workbench.demo import randomise
from fastcnn.workbench.report.timing import Effort

SIDES = {"3": 28, "4": 14, "5": 7}  # of the picture that each stage's blocks read
BLOCKS = tuple((name, SIDES[name[0]], channels) for name, channels in INCEPTIONS.items())
TIMES = "GoogLeNet's blocks with and without the reductions, batch 1"


class WithoutReduction(nn.Module):
    """An Inception block whose 3x3 and 5x5 read the block's input: figure 2(a) of the paper, with its pool branch."""

    def __init__(self, channels: int, ch1x1: int, _: int, ch3x3: int, __: int, ch5x5: int, pool_proj: int) -> None:
        super().__init__()
        self.branch1 = Conv2d(channels, ch1x1, 1, activation="relu")
        self.branch2 = Conv2d(channels, ch3x3, 3, padding=1, activation="relu")
        self.branch3 = Conv2d(channels, ch5x5, 5, padding=2, activation="relu")
        self.pool = MaxPool2d(3, stride=1, padding=1)
        self.branch4 = Conv2d(channels, pool_proj, 1, activation="relu")

    def forward(self, input: Tensor) -> Tensor:
        return F.concat([self.branch1(input), self.branch2(input), self.branch3(input), self.branch4(self.pool(input))])


def measure(effort: Effort, progress: Progress) -> Found:
    rows: list[Row] = []
    for name, side, channels in BLOCKS:
        progress(f"block {name}")
        models: dict[str, nn.Module] = {
            "with": randomise(Inception(*channels).eval(), seed=0),
            "without": randomise(WithoutReduction(*channels).eval(), seed=0),
        }
        torch.manual_seed(0)
        shape = (1, channels[0], side, side)
        times = compare(models, torch.randn(shape), effort)
        work = {key: flops(model, *shape) for key, model in models.items()}
        row: Row = {
            "block": name,
            "with, MFLOP": work["with"] / 1e6,
            "without, MFLOP": work["without"] / 1e6,
            "operations, ratio": work["without"] / work["with"],
        }
        for engine in ENGINES:
            for key in models:
                row[f"{engine} {key}, ms"] = times[engine][key]
            row[f"{engine}, ratio"] = times[engine]["without"]["ms"] / times[engine]["with"]["ms"]
        rows.append(row)
    return Found({TIMES: rows})


def judge(tables: Tables) -> list[Part]:
    rows = tables[TIMES]
    total = {key: sum(row[f"{key}, MFLOP"] for row in rows) for key in ("with", "without")}
    parts = [
        Part(
            all(row["operations, ratio"] > 1 for row in rows),
            f"without reductions the blocks need {spread(rows, 'operations, ratio')} times the operations, "
            f"all together {total['without'] / total['with']:.2f} times",
        )
    ]
    for engine in ENGINES:
        column = f"{engine}, ratio"
        time = {key: sum(row[f"{engine} {key}, ms"]["ms"] for row in rows) for key in ("with", "without")}
        parts.append(
            Part(
                all(row[column] > 1 for row in rows),
                f"{engine}: without reductions the blocks take {spread(rows, column)} times as long, "
                f"all together {time['without'] / time['with']:.2f} times (asked: longer in every block)",
            )
        )
    return parts


CLAIM = Claim(
    number=2,
    title="1x1 reductions before 3x3 and 5x5 save computation",
    sentence="1x1 convolutions that reduce the channels before the expensive 3x3 and 5x5 convolutions keep the cost "
    "of a block down.",
    source="Szegedy et al., Going Deeper with Convolutions, 2014, sections 4 and 5, figure 2, table 1",
    measured="Operations and time of each of the nine blocks as they are, and with the 3x3 and 5x5 reading the "
    "block's input directly; every branch's output is as wide in both.",
    measure=measure,
    judge=judge,
)
