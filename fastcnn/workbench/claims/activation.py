"""Claim 5: ReLU trains faster than tanh and sigmoid."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from fastcnn.models import lenet5
from fastcnn.models.lenet import LeNet5
from fastcnn.nn import Conv2d, Linear
from fastcnn.workbench.claims.common import Claim, Found, Part, Progress, Row, Tables
from fastcnn.workbench.report.timing import Effort
from fastcnn.workbench.train import Digits, load_digits, one_thread

ACTIVATIONS = ("relu", "tanh", "sigmoid")
RATES = (0.01, 0.03, 0.1)
RATE_SEEDS, SEEDS = (100,), (0, 1, 2, 3, 4)  # the rate is chosen on seeds of its own
BATCH, STEPS, EPOCHS = 32, 8, 12  # digits a step, steps between two looks at the training error, epochs at most
LOOK = 3  # the training error is that of every third training digit: looking must not cost more than learning
TARGETS = (0.25, 0.02)  # the paper's 25 %, and an error that a trained net should reach
ASKED = 2.0  # the least that "several times faster" can mean
EPOCHS_TO = "epochs until the training error is reached: LeNet-5 (max-pooling, linear output) on digits"


def network(activation: str, seed: int) -> LeNet5:
    """The modern LeNet-5 with another activation; the first weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = lenet5("modern")
    for module in model.modules():
        if isinstance(module, Conv2d | Linear) and module.activation == "relu":
            module.activation = activation
    return model


def training_error(digits: Digits, activation: str, rate: float, seed: int) -> Iterator[tuple[float, float]]:
    """Trains with SGD (momentum 0.9) and yields (epoch, share of training digits read wrong), every few steps."""
    model = network(activation, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    a_pass, step = math.ceil(len(digits.images) / BATCH), 0
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(digits.images), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(digits.images[chosen]), digits.labels[chosen]).backward()
            optimizer.step()
            step += 1
            if step % STEPS == 0:
                with torch.inference_mode():
                    wrong = (model(digits.images[::LOOK]).argmax(1) != digits.labels[::LOOK]).double().mean().item()
                yield step / a_pass, wrong


def until_reached(curve: Iterator[tuple[float, float]]) -> list[tuple[float, float]]:
    """The curve up to the first point at or below the last target, or all of it."""
    seen = []
    for point in curve:
        seen.append(point)
        if point[1] <= TARGETS[-1]:
            break
    return seen


def epochs_to(target: float, curve: list[tuple[float, float]]) -> float:
    """The epoch at which the curve first reached the target; infinite if it did not."""
    return next((epoch for epoch, error in curve if error <= target), math.inf)


def measure(effort: Effort, progress: Progress) -> Found:
    digits = load_digits()
    rows: list[Row] = []
    curves = {}
    with one_thread():
        for activation in ACTIVATIONS:

            def train(rate: float, seed: int, activation: str = activation) -> list[tuple[float, float]]:
                progress(f"{activation}, learning rate {rate:g}, seed {seed}")
                return until_reached(training_error(digits, activation, rate, seed))

            def quality(rate: float) -> tuple[float, float]:
                tried = [train(rate, seed) for seed in RATE_SEEDS]
                reached = statistics.median(epochs_to(TARGETS[-1], curve) for curve in tried)
                return reached, statistics.median(curve[-1][1] for curve in tried)

            rate = min(RATES, key=quality)
            found = [train(rate, seed) for seed in SEEDS]
            curves[activation] = found
            row: Row = {"activation": activation, "learning rate": rate, "seeds": len(SEEDS)}
            for target in TARGETS:
                epochs = sorted(epochs_to(target, curve) for curve in found)
                # JSON has no infinity: a run that did not get there counts as None, "not within EPOCHS".
                row[f"to {target:.0%}, median"] = _finite(statistics.median(epochs))
                row[f"to {target:.0%}, least"] = _finite(epochs[0])
                row[f"to {target:.0%}, most"] = _finite(epochs[-1])
            rows.append(row)
    return Found({EPOCHS_TO: rows}, curves)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def judge(tables: Tables) -> list[Part]:
    rows = {row["activation"]: row for row in tables[EPOCHS_TO]}
    parts = []
    for other in ACTIVATIONS[1:]:
        for target in TARGETS:
            column = f"to {target:.0%}, median"
            ours, theirs = rows["relu"][column], rows[other][column]
            if ours is None:
                parts.append(Part(False, f"ReLU did not reach {target:.0%} training error within {EPOCHS} epochs"))
            elif theirs is None:
                text = (
                    f"{other} did not reach {target:.0%} training error within {EPOCHS} epochs, ReLU did in {ours:.2f}"
                )
                parts.append(Part(ASKED * ours <= EPOCHS, text))
            else:
                parts.append(
                    Part(
                        theirs >= ASKED * ours,
                        f"to {target:.0%} training error, {other} needs {theirs / ours:.2f} times ReLU's epochs "
                        f"({theirs:.2f} against {ours:.2f}; asked: at least {ASKED:g} times)",
                    )
                )
    return parts


CLAIM = Claim(
    number=5,
    title="ReLU trains several times faster than tanh and sigmoid",
    sentence="Networks with ReLUs train several times faster than their equivalents with tanh units (six times, to "
    "25 % training error on CIFAR-10).",
    source="Krizhevsky, Sutskever, Hinton 2012, section 3.1 and figure 1",
    measured="Epochs to 25 % and to 2 % training error of one network with three activations: the same first "
    "weights, the learning rate chosen for each activation on seeds of its own, as in the paper; no "
    "regularisation. The network is small and the digits are easy: the paper's network had four layers "
    "and natural pictures.",
    measure=measure,
    judge=judge,
)
