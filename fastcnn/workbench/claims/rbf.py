"""Claim 8: Euclidean RBF units against a linear output layer."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcnn.models import lenet5
from fastcnn.models.lenet import LeNet5, digit_prototypes, map_loss
from fastcnn.nn import Linear, RBFOutput
from fastcnn.workbench import train
from fastcnn.workbench.claims.common import ENGINES, Claim, Found, Part, Progress, Row, Tables, compare
from fastcnn.workbench.report.timing import Effort

SEEDS, EPOCHS, OTHERS = (0, 1, 2), 15, 600
BATCHES = (1, 256)
WITHIN = 0.01  # accuracies this near each other count as equal: six of the 599 held-out digits
READING = "LeNet-5 (paper) with either output: held-out digits read right, and rejection of what is no digit (AUROC)"
TIMES = "the output layer alone, 84 to 10"
KINDS = ("photographs", "noise", "shuffled digits")
DISTANCE, SOFTMAX = "smallest distance", "largest softmax probability"


def not_digits(digits: train.Digits) -> dict[str, Tensor]:
    """Pictures (OTHERS, 1, 32, 32) that are no digits, 8x8 cells of ink from 0 to 1, placed as digits are."""
    from sklearn.datasets import load_sample_images

    generator = torch.Generator().manual_seed(0)
    photographs = [torch.tensor(image).float().mean(-1) for image in load_sample_images().images]
    crops = []
    for number in range(OTHERS):
        photograph = photographs[number % len(photographs)]
        side = int(torch.randint(16, 129, (), generator=generator))
        y, x = (int(torch.randint(0, size - side, (), generator=generator)) for size in photograph.shape)
        cells = F.adaptive_avg_pool2d(photograph[None, y : y + side, x : x + side], 8)
        crops.append((cells - cells.min()) / (cells.max() - cells.min()).clamp_min(1.0))
    ink = digits.held_out_images[:, :, 4:28, 4:28]
    order = torch.rand(len(ink), 64, generator=generator).argsort(1)
    cells = F.avg_pool2d((ink - train.BACKGROUND) / (train.INK - train.BACKGROUND), 3).flatten(1).gather(1, order)
    return {
        "photographs": train.place(torch.stack(crops)),
        "noise": train.place(torch.rand(OTHERS, 1, 8, 8, generator=generator)),
        "shuffled digits": train.place(cells.view(-1, 1, 8, 8)),
    }


# How sure a network is that it sees a digit, from its outputs (N, 10): larger is surer.
CONFIDENCE: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "RBF": {
        DISTANCE: lambda distance: -distance.amin(1),
        SOFTMAX: lambda distance: (-distance).softmax(1).amax(1),
    },
    "linear": {
        "largest logit": lambda logits: logits.amax(1),
        SOFTMAX: lambda logits: logits.softmax(1).amax(1),
    },
}


def trained(output: str, seed: int, digits: train.Digits) -> LeNet5:
    """The paper's LeNet-5: with RBF units and the MAP loss, or with a linear output and cross-entropy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = lenet5("paper")
        if output == "linear":
            model.output = Linear(84, 10)
    criterion = map_loss if output == "RBF" else F.cross_entropy
    return train.fit(model, criterion, digits, train.Recipe(epochs=EPOCHS, seed=seed))


def auroc(sure: Tensor, unsure: Tensor) -> float:
    """The probability that a digit gets a higher confidence than a picture that is none; ties count half."""
    greater = (sure[:, None] > unsure).double() + 0.5 * (sure[:, None] == unsure)
    return greater.mean().item()


def measure(effort: Effort, progress: Progress) -> Found:
    digits = train.load_digits()
    others = not_digits(digits)
    rows: list[Row] = []
    for output, scores in CONFIDENCE.items():
        accuracies: list[float] = []
        found: dict[str, dict[str, list[float]]] = {score: {kind: [] for kind in KINDS} for score in scores}
        for seed in SEEDS:
            progress(f"{output}, seed {seed}")
            model = trained(output, seed, digits)
            with torch.inference_mode():
                answer = model(digits.held_out_images)
                best = answer.argmin(1) if output == "RBF" else answer.argmax(1)
                accuracies.append((best == digits.held_out_labels).double().mean().item())
                for kind in KINDS:
                    foreign = model(others[kind])
                    for score, confidence in scores.items():
                        found[score][kind].append(auroc(confidence(answer), confidence(foreign)))
        for score in scores:
            rows.append(
                {"output": output, "seeds": len(SEEDS), "accuracy, median": statistics.median(accuracies),
                 "confidence": score}
                | {kind: statistics.median(found[score][kind]) for kind in KINDS}
                | {f"{kind}, least": min(found[score][kind]) for kind in KINDS}
            )  # fmt: skip
    times: list[Row] = []
    torch.manual_seed(0)
    layers = {"RBF": RBFOutput(digit_prototypes()).eval(), "linear": Linear(84, 10).eval()}
    for batch in BATCHES:
        progress(f"the layer, batch {batch}")
        taken = compare(layers, torch.randn(batch, 84), effort)
        row: Row = {"batch": batch}
        for engine in ENGINES:
            row |= {f"{engine} {name}, us": 1e3 * taken[engine][name]["ms"] for name in layers}
        times.append(row)
    return Found({READING: rows, TIMES: times})


def judge(tables: Tables) -> list[Part]:
    rows = {(row["output"], row["confidence"]): row for row in tables[READING]}
    ours, theirs = rows["RBF", DISTANCE], rows["linear", SOFTMAX]
    accuracy = "accuracy, median"
    parts = [
        Part(
            ours[accuracy] >= theirs[accuracy] - WITHIN,
            f"RBF units read {ours[accuracy]:.2%} of the held-out digits right, a linear output {theirs[accuracy]:.2%} "
            f"(asked: at most {WITHIN:.0%} less)",
        )
    ]
    for kind in KINDS:
        parts.append(
            Part(
                ours[kind] > theirs[kind],
                f"{kind}: the smallest RBF distance tells them from digits with AUROC {ours[kind]:.3f}, a linear "
                f"output's softmax with {theirs[kind]:.3f} (asked: more)",
            )
        )
    return parts


CLAIM = Claim(
    number=8,
    title="RBF output units reject what is no character",
    sentence="RBF units with distributed codes are better suited than sigmoids to reject non-characters: each is "
    "active in a well circumscribed region of its input space, outside which untypical patterns fall.",
    source="LeCun, Bottou, Bengio, Haffner 1998, section II.B",
    measured="The same LeNet-5 trained with RBF units (MAP loss) and with a linear output (cross-entropy): accuracy on "
    "held-out digits; how well a confidence separates these from crops of photographs, noise and digits with their "
    "cells shuffled (1: perfectly, 0.5: not at all); the time of the layer.",
    measure=measure,
    judge=judge,
)
