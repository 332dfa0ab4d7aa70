"""Learning curves and a confusion matrix as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from fastcnn.workbench.train import files


def draw(folder: Path, history: list[dict[str, float]], counts: Tensor, classes: list[str]) -> None:
    """Writes curves.png and confusion.png, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    curves(Figure(figsize=(9, 3.6), layout="constrained"), folder / "curves.png", history)
    confusion(Figure(figsize=(5.6, 5), layout="constrained"), folder / "confusion.png", counts, classes)


def draw_confusion(folder: Path, counts: Tensor, classes: list[str]) -> list[Path]:
    """Writes confusion.png; raises ImportError where matplotlib is missing."""
    from matplotlib.figure import Figure

    path = folder / "confusion.png"
    confusion(Figure(figsize=(5.6, 5), layout="constrained"), path, counts, classes)
    return [path]


def curves(figure: Any, path: Path, history: list[dict[str, float]]) -> None:
    epochs = [row["epoch"] for row in history]
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["loss"] for row in history], color="tab:blue", marker="." if len(epochs) < 20 else None)
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    for name, colour in (("top1", "tab:orange"), ("top5", "tab:gray")):
        right.plot(epochs, [100 * row[name] for row in history], color=colour, label=f"top-{name[-1]}")
    right.set(xlabel="epoch", ylabel="accuracy, %", ylim=(0, 102))
    right.legend(frameon=False, loc="lower right")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    files.replace(path, lambda to: figure.savefig(to, dpi=110, format="png"))


def confusion(figure: Any, path: Path, counts: Tensor, classes: list[str]) -> None:
    """Shares of each true class; numbers and names while they can be read."""
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    axis = figure.subplots()
    axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true")
    if len(classes) <= 20:
        axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axis.set_yticks(range(len(classes)), classes)
        for row in range(len(classes)):
            for column in range(len(classes)):
                if counts[row, column]:
                    colour = "white" if shares[row, column] > 0.5 else "black"
                    axis.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=colour)
    files.replace(path, lambda to: figure.savefig(to, dpi=110, format="png"))
