"""Two pictures: training with three activations, and with and without shortcuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fastcnn.core.files import written_whole
from fastcnn.workbench.claims import activation
from fastcnn.workbench.figures import BLUE, GREY, ORANGE

NAMES = {"relu": "ReLU", "tanh": "tanh", "sigmoid": "sigmoid"}


def draw(claims: dict[str, Any], path: Path) -> list[Path]:
    """Draws what the claims of a file have curves for, beside the file `path`; returns the pictures."""
    made = []
    for number, name, plot in (("5", "activations", activations), ("6", "depth", depth)):
        if number in claims:
            made.append(path.with_name(f"{path.stem}-{name}.png"))
            plot(made[-1], claims[number])
    return made


def activations(path: Path, claim: dict[str, Any]) -> None:
    """Training error against epochs, a line a seed, for each activation."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axis = figure.subplots()
    (rows,) = claim["tables"].values()
    for row, colour in zip(rows, (BLUE, ORANGE, GREY), strict=True):
        name = row["activation"]
        for number, curve in enumerate(claim["curves"][name]):
            label = f"{NAMES[name]}, learning rate {row['learning rate']:g}" if number == 0 else None
            axis.plot(*zip(*curve, strict=True), color=colour, linewidth=1.4, alpha=0.85, label=label)
    for target in activation.TARGETS:
        axis.axhline(target, color="black", linewidth=0.7, linestyle=":")
        axis.annotate(f"{target:.0%}", (1, target), (3, 0), ("axes fraction", "data"), "offset points", va="center")
    axis.set_yscale("log")
    axis.set_xlim(left=0)
    axis.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 0.9], ["2 %", "5 %", "10 %", "20 %", "50 %", "90 %"])
    axis.minorticks_off()
    axis.set_xlabel("epochs")
    axis.set_ylabel("training digits read wrong")
    axis.set_title("LeNet-5 with three activations, a line a seed")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=130)


def depth(path: Path, claim: dict[str, Any]) -> None:
    """Training error after each epoch, plain on the left, residual on the right; a line a seed."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    figure.suptitle("The first epochs on digits, a line a seed")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, kind, title in zip(axes, ("plain", "resnet"), ("plain", "residual"), strict=True):
        for layers, colour in ((20, ORANGE), (56, BLUE)):
            for number, curve in enumerate(claim["curves"][f"{kind}{layers}"]):
                epochs = range(1, len(curve) + 1)
                label = f"{layers} layers" if number == 0 else None
                axis.plot(epochs, [100 * error for _, error in curve], "o-", markersize=3, color=colour, label=label)
        axis.set_title(title)
        axis.set_xlabel("epochs")
        axis.set_xticks(list(epochs))
        axis.set_ylim(0, 100)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("training error, %")
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=130)
