"""The demo's pictures: what LeNet-5 sees and decides, and how long each network takes.

Colours are Okabe and Ito's, or matplotlib's perceptually uniform maps: readable by the colour-blind and in grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from fastcnn.core.files import written_whole

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#999999"
SQUASHED = 1.7159  # the bound of LeNet-5's activations


def feature_maps(path: Path, digit: Tensor, maps: Mapping[str, Tensor], label: int) -> None:
    """A digit (32, 32) and the maps (C, H, W) that each layer makes of it, one row a layer.

    `maps` goes from the layer's title to its maps.
    """
    columns = 8
    rows = [(title, layer, start) for title, layer in maps.items() for start in range(0, len(layer), columns)]
    figure = Figure(figsize=(11, 1.2 * len(rows) + 1.9), layout="constrained")
    figure.suptitle(f"LeNet-5 reads a held-out {label}: what each map answers", fontsize=15)
    axes = figure.subplots(
        len(rows) + 1, columns + 1, height_ratios=[1.2] + [1] * len(rows), width_ratios=[1.3] + [1] * columns,
        squeeze=False,
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    _label(axes[0, 0], "input\n1 x 32 x 32")
    axes[0, 1].imshow(digit.numpy(), cmap="gray", vmin=-0.1, vmax=1.175)
    image: Any = None
    previous = None
    for row, (title, layer, start) in enumerate(rows, 1):
        if title != previous:
            _label(axes[row, 0], title)
            previous = title
        for number in range(start, min(start + columns, len(layer))):
            axis = axes[row, 1 + number - start]
            image = axis.imshow(layer[number].numpy(), cmap="RdBu_r", vmin=-SQUASHED, vmax=SQUASHED)
            axis.set_title(str(number), fontsize=8, color=GREY, pad=2)
    bar = figure.colorbar(image, ax=axes[:, -1], fraction=0.4, aspect=40)
    bar.set_label("activation: 1.7159 tanh(2/3 a)")
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=130)


def distances(path: Path, f6: Tensor, prototypes: Tensor, distance: Tensor, label: int) -> None:
    """F6's answer (84,) as the 7x12 picture it tries to draw, the ten prototypes (10, 84), and the distances (10,)."""
    best = int(distance.argmin())
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    figure.suptitle(f"The output units compare F6's picture of a held-out {label} with ten prototypes", fontsize=15)
    axes = figure.subplot_mosaic(
        [["f6", *map(str, range(10))], ["bars"] * 11], height_ratios=[1, 1.3], width_ratios=[1.25] + [1] * 10
    )
    axes["f6"].set_title("F6's 84\nactivations", fontsize=10)
    axes["f6"].imshow(f6.view(12, 7).numpy(), cmap="RdBu_r", vmin=-SQUASHED, vmax=SQUASHED)
    for number in range(10):
        axes[str(number)].set_title(f"prototype\n{number}", fontsize=10, weight="bold" if number == best else "normal")
        axes[str(number)].imshow(prototypes[number].view(12, 7).numpy(), cmap="RdBu_r", vmin=-SQUASHED, vmax=SQUASHED)
    for name, axis in axes.items():
        if name != "bars":
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set(color=BLUE if name == str(best) else GREY, linewidth=3 if name == str(best) else 0.5)
    bars = axes["bars"]
    drawn = bars.bar(range(10), distance.numpy(), color=[BLUE if i == best else GREY for i in range(10)])
    bars.bar_label(drawn, fmt="%.1f")
    bars.set_xticks(range(10))
    bars.set_xlabel("digit")
    bars.set_ylabel("squared distance to the prototype")
    bars.set_title(f"the nearest prototype is the answer: {best}", fontsize=12)
    bars.spines[["top", "right"]].set_visible(False)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=130)


def confusion(path: Path, counts: Tensor, title: str) -> None:
    """Confusion counts (10, 10): row by the true digit, column by the predicted one."""
    figure = Figure(figsize=(7, 6.6), layout="constrained")
    axis = figure.subplots()
    axis.imshow(counts.numpy(), cmap="Blues", vmin=0)
    for true in range(len(counts)):
        for predicted in range(len(counts)):
            count = int(counts[true, predicted])
            if count:
                right = true == predicted
                axis.text(
                    predicted, true, str(count), ha="center", va="center",
                    color="white" if right else "black", weight="normal" if right else "bold",
                )  # fmt: skip
                if not right:
                    corner = (predicted - 0.47, true - 0.47)
                    axis.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=ORANGE, linewidth=2))
    axis.set_xticks(range(len(counts)))
    axis.set_yticks(range(len(counts)))
    axis.set_xlabel("predicted digit")
    axis.set_ylabel("true digit")
    axis.set_title(title)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=130)


def speeds(
    path: Path,
    names: Sequence[str],
    plain: Sequence[tuple[float, float, float]],
    ours: Sequence[tuple[float, float, float]],
    title: str,
) -> None:
    """Median milliseconds of each network, with the 10th and 90th percentiles: (median, low, high)."""
    # A panel a network, each scale from 0: on one logarithmic scale the bars' lengths would mean nothing.
    figure = Figure(figsize=(2.2 * len(names) + 0.6, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=14)
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name, before, after in zip(axes, names, plain, ours, strict=True):
        medians, lows, highs = np.array([before, after]).T
        error = np.maximum([medians - lows, highs - medians], 0)
        axis.bar(["PyTorch", "fastcnn"], medians, color=[GREY, BLUE], yerr=error, ecolor="black", capsize=4)
        for position, (median, high) in enumerate(zip(medians, highs, strict=True)):
            above = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center"}
            axis.annotate(f"{median:.3g} ms", (position, max(median, high)), **above)
        axis.set_ylim(0, 1.15 * highs.max())
        axis.set_title(f"{name}\n{before[0] / after[0]:.2f} x", weight="bold")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("milliseconds a picture")
    figure.supxlabel(
        "bars: median; whiskers: 10th to 90th percentile; each panel has its own scale; above: PyTorch / fastcnn",
        fontsize=9,
    )
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=130)


def _label(axis: Any, text: str) -> None:
    axis.text(0.95, 0.5, text, ha="right", va="center", transform=axis.transAxes, fontsize=11)
