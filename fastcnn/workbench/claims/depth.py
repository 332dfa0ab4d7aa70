"""Claim 6: residual networks are deeper with fewer operations, and do not degrade with depth."""

from __future__ import annotations

import statistics

import torch
import torch.nn.functional as F

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
from fastcnn.workbench.train import Digits, load_digits

NETWORKS = ("resnet152", "vgg16", "vgg19")
TIMED = ("resnet152", "vgg19")
KINDS = ("plain", "resnet")
DEPTHS = (20, 56)
SEEDS = (0, 1, 2)
EPOCHS, BATCH, RATE = 4, 64, 0.05
COST = "operations and time, 224x224, batch 1"
TRAINED = "training on digits: CIFAR-form networks"


def pictures(digits: Digits) -> torch.Tensor:
    """The digits as (N, 3, 8, 8), mean 0 and variance 1: the ink as it was counted, three times."""
    # `place` enlarges 8x8 to the inner 24x24 of 32x32; the mean of each 3x3 is close to the count again.
    ink = F.avg_pool2d(digits.images[:, :, 4:28, 4:28], 3)
    return ((ink - ink.mean()) / ink.std()).expand(-1, 3, -1, -1).contiguous()


def train(kind: str, depth: int, seed: int, images: torch.Tensor, labels: torch.Tensor) -> list[tuple[float, float]]:
    """SGD as in the paper (momentum 0.9, weight decay 1e-4): after each epoch, its mean loss and error."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_model(f"{kind}{depth}_cifar").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    curve = []
    for _ in range(EPOCHS):
        loss_sum, wrong = 0.0, 0
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            logits = model(images[chosen])
            loss = F.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(chosen)
            wrong += int((logits.argmax(1) != labels[chosen]).sum())
        curve.append((loss_sum / len(images), wrong / len(images)))
    return curve


def measure(effort: Effort, progress: Progress) -> Found:
    cost: list[Row] = []
    progress("ResNet-152 and VGG")
    models = {name: randomise(get_model(name).eval(), seed=0) for name in TIMED}
    torch.manual_seed(0)
    times = compare(models, torch.randn(1, 3, 224, 224), effort)
    del models
    for name in NETWORKS:
        with torch.device("meta"):
            model = get_model(name).eval()
        work, weights = flops(model, 1, 3, 224, 224) / 1e9, parameters(model) / 1e6
        row: Row = {"network": name, "GFLOP": work, "parameters, M": weights}
        cost.append(row | {f"{engine}, ms": times[engine].get(name) for engine in ENGINES})

    digits = load_digits()
    images = pictures(digits)
    trained: list[Row] = []
    curves = {}
    for kind in KINDS:
        for depth in DEPTHS:
            found = []
            for seed in SEEDS:
                progress(f"{kind}{depth}, seed {seed}")
                found.append(train(kind, depth, seed, images, digits.labels))
            curves[f"{kind}{depth}"] = found
            losses, errors = ([curve[-1][i] for curve in found] for i in (0, 1))
            trained.append(
                {
                    "network": kind, "depth": depth, "seeds": len(SEEDS), "epochs": EPOCHS,
                    "training error, median": statistics.median(errors),
                    "training error, least": min(errors),
                    "training error, most": max(errors),
                    "training loss, median": statistics.median(losses),
                }
            )  # fmt: skip
    return Found({COST: cost, TRAINED: trained}, curves)


def judge(tables: Tables) -> list[Part]:
    cost = {row["network"]: row for row in tables[COST]}
    parts = []
    for other in NETWORKS[1:]:
        deep, shallow = cost["resnet152"], cost[other]
        parts.append(
            Part(
                deep["GFLOP"] < shallow["GFLOP"],
                f"resnet152 needs {deep['GFLOP']:.1f} GFLOP, {other} {shallow['GFLOP']:.1f}{_times(deep, shallow)}",
            )
        )
    error = {(row["network"], row["depth"]): row["training error, median"] for row in tables[TRAINED]}
    few, many = DEPTHS
    text = "the {} network's training error after {} epochs is {:.1%} with {} layers and {:.1%} with {}"
    epochs = tables[TRAINED][0]["epochs"]
    plain, residual = (
        text.format(word, epochs, error[kind, few], few, error[kind, many], many)
        for word, kind in (("plain", "plain"), ("residual", "resnet"))
    )
    parts.append(Part(error["plain", many] > error["plain", few], f"{plain} (asked: higher)"))
    parts.append(Part(error["resnet", many] <= error["resnet", few], f"{residual} (asked: not higher)"))
    parts.append(
        Part(
            error["resnet", many] < error["plain", many],
            f"with {many} layers the residual network's error is {error['resnet', many]:.1%}, the plain one's "
            f"{error['plain', many]:.1%} (asked: lower)",
        )
    )
    return parts


def _times(deep: Row, shallow: Row) -> str:
    """How the times compare, in words, where both were taken. The paper claims nothing about time."""
    if shallow["fastcnn, ms"] is None:
        return ""
    ratios = (f"{engine} {deep[f'{engine}, ms']['ms'] / shallow[f'{engine}, ms']['ms']:.2f}" for engine in ENGINES)
    return f"; its time over {shallow['network']}'s: {', '.join(ratios)}"


CLAIM = Claim(
    number=6,
    title="ResNet-152 needs fewer operations than VGG, and depth does not degrade residual networks",
    sentence="The 152-layer ResNet still has lower complexity than VGG-16 and VGG-19; plain networks have a higher "
    "training error when they are deeper, residual ones do not.",
    source="He, Zhang, Ren, Sun 2015, sections 3.3, 4.1 and 4.2",
    measured="Operations (a multiply-add counts as two) and time; then plain and residual networks of the CIFAR form "
    "with 20 and 56 layers, the first epochs of training on 8x8 digits. The paper trains for 160 epochs on CIFAR-10: "
    "this shows which networks start to learn, not where they end.",
    measure=measure,
    judge=judge,
)
