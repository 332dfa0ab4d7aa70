"""The plots of a report, drawn from result files with matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastcnn.core.files import written_whole
from fastcnn.workbench.report.cases import FIVE, NETWORKS
from fastcnn.workbench.report.results import Results, Row
from fastcnn.workbench.report.roofline import Ceilings
from fastcnn.workbench.report.summary import NAMES, ORDER, best_other, others, speed_up

# One colour a contender in every plot; fastcnn's is the only saturated one, so that it is found at a glance.
COLOURS = {
    "fastcnn": "#d1351b",
    "fastcnn_unpacked": "#dd6a50",
    "fastcnn_layers": "#e8927c",
    "fastcnn_autograd": "#e8927c",
    "eager": "#8a94a6",
    "eager_autograd": "#bcc3cf",
    "compile": "#4c5b76",
    "cudnn": "#7a9e3f",
    "cudnn_graph": "#4f7a1f",
    "onnxruntime": "#3f7fb5",
    "openvino": "#7d6bb0",
    "ncnn": "#3d9a8b",
    "mnn": "#c9a13b",
}
FUNCTIONS = {
    "conv2d": ("#d1351b", "o"),
    "linear": ("#3f7fb5", "s"),
    "max_pool2d": ("#3d9a8b", "^"),
    "adaptive_avg_pool2d": ("#3d9a8b", "v"),
    "local_response_norm": ("#7d6bb0", "D"),
    "concat": ("#c9a13b", "P"),
    "add_relu": ("#4c5b76", "X"),
    "subsample2d": ("#8a94a6", "<"),
    "rbf": ("#8a94a6", ">"),
}
INK, MUTED, GRID = "#1d2430", "#6b7484", "#e4e7ec"

Figure = Any


def draw(results: Results, folder: Path) -> dict[str, Path]:
    """Writes every plot that the results have data for; returns their files by name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style: dict[Any, Any] = {
        "font.size": 10,
        "font.family": ["DejaVu Sans"],
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#b5bcc8",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.axisbelow": True,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "legend.frameon": False,
        "figure.dpi": 110,
        "savefig.dpi": 150,
        "savefig.bbox": "tight",
        "figure.facecolor": "white",
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Path] = {}
    with plt.rc_context(style):
        for name, plot in PLOTS.items():
            figure = plot(results)
            if figure is None:
                continue
            device = results.path.stem if results.path else "results"
            drawn[name] = folder / f"{device}-{name}.png"
            with written_whole(drawn[name]) as partial:
                figure.savefig(partial)
            plt.close(figure)
    return drawn


def _subplots(*args: Any, **kwargs: Any) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(*args, **kwargs)


def _title(figure: Figure, title: str, results: Results, note: str = "") -> None:
    """The heading, and below it what a reader must know to judge the figures."""
    about = results.about
    height = figure.get_figheight()
    where = f"{about['device']}, {about['threads']} threads" if about["kind"] == "cpu" else about["device"]
    facts = f"{where}, torch {about['versions'].get('torch', '?')}"
    top = 1 + 0.62 / height
    figure.suptitle(title, x=0.01, y=top, ha="left", va="top", fontsize=14, fontweight="bold")
    lines = textwrap.fill(f"{note} {facts}".strip(), int(figure.get_figwidth() * 13))
    figure.text(0.01, top - 0.3 / height, lines, ha="left", va="top", color=MUTED, fontsize=9)


def network_cases(results: Results) -> dict[tuple[str, int], dict[str, Row]]:
    """The networks at their own image size, float32 first, by name and batch."""
    found: dict[tuple[str, int], dict[str, Row]] = {}
    for (kind, label, batch, _, _, image), contenders in results.cases.items():
        if kind == "network" and not image:
            found.setdefault((label, batch), contenders)
    order = {name: i for i, name in enumerate(NETWORKS)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0][0], 99), item[0][1])))


def network_bars(results: Results) -> Figure | None:
    """How much longer the others take than fastcnn, by network."""
    cases = {key: rows for key, rows in network_cases(results).items() if "fastcnn" in rows and others(rows)}
    if not cases:
        return None
    ratios = {
        key: {n: row.seconds / rows["fastcnn"].seconds for n, row in rows.items() if n != "fastcnn"}
        for key, rows in cases.items()
    }
    labels = {(name, b): f"{name}\n{_milliseconds(rows['fastcnn'].seconds)}" for (name, b), rows in cases.items()}
    figure, axes = _grouped(ratios, labels, "time / fastcnn's")
    for axis in axes:
        axis.axhline(1, color=COLOURS["fastcnn"], linewidth=1.6)
        axis.set_yscale("log")
        _ratio_ticks(axis.yaxis)
        axis.set_ylim(0.5, axis.get_ylim()[1] * 1.15)
    _title(figure, "Networks: time of others over fastcnn's", results,
           "Above the line: fastcnn is faster. Below each name: fastcnn's time.")  # fmt: skip
    return figure


def memory(results: Results) -> Figure | None:
    """Memory that a network holds while it runs, by contender."""
    held = {
        key: {n: row.memory / 2**20 for n, row in rows.items() if row.data["extra_info"].get("memory")}
        for key, rows in network_cases(results).items()
    }
    held = {key: values for key, values in held.items() if values}
    if not held:
        return None
    figure, _ = _grouped(held, {key: key[0] for key in held}, "MiB")
    _title(figure, "Memory while running", results,
           "Peak resident memory of a process that runs the network, less the engine's own.")  # fmt: skip
    return figure


Key = tuple[str, int]


def _grouped(cases: dict[Key, dict[str, float]], labels: dict[Key, str], unit: str) -> tuple[Figure, list[Any]]:
    """A panel a batch, a group a network, a bar a contender with its value above it."""
    present = [name for name in ORDER if any(name in values for values in cases.values())]
    batches = sorted({batch for _, batch in cases})
    groups = max(sum(batch == b for _, batch in cases) for b in batches)
    width = min(16.0, max(7.5, 0.9 + 0.26 * groups * (len(present) + 1)))
    figure, axes = _subplots(len(batches), 1, figsize=(width, 2.9 * len(batches)), squeeze=False)
    for axis, batch in zip(axes[:, 0], batches, strict=True):
        keys = [key for key in cases if key[1] == batch]
        for group, key in enumerate(keys):
            here = [name for name in present if name in cases[key]]
            for i, name in enumerate(here):
                x, value = group + (i - (len(here) - 1) / 2) * 0.86 / len(present), cases[key][name]
                axis.bar(x, value, 0.82 / len(present), color=COLOURS[name])
                text = f"{value:.1f}" if value < 10 else f"{value:.0f}"
                axis.annotate(text, (x, value), ha="center", va="bottom", fontsize=7, color=MUTED, xytext=(0, 1),
                              textcoords="offset points")  # fmt: skip
        axis.set_xticks(range(len(keys)), [labels[key] for key in keys], color=INK)
        axis.set_xlim(-0.6, len(keys) - 0.4)
        axis.set_ylabel(unit)
        axis.set_title(f"batch {batch}")
        axis.grid(axis="y", color=GRID)
        axis.tick_params(axis="x", length=0)
    handles = [_patch(name) for name in present]
    if "fastcnn" not in present:
        handles.insert(0, _line(COLOURS["fastcnn"], "fastcnn = 1"))
    figure.tight_layout()
    figure.legend(handles=handles, ncols=min(5, len(handles)), loc="upper left", bbox_to_anchor=(0.0, 0.0), fontsize=9)
    return figure, list(axes[:, 0])


def layer_bars(results: Results, most: int = 48) -> Figure | None:
    """fastcnn's speed-up at the layers of the networks, over PyTorch and over the best other."""
    cases = [
        rows for (kind, _, batch, *_), rows in results.cases.items()
        if kind == "op" and batch == 1 and "fastcnn" in rows and "eager" in rows
    ]  # fmt: skip
    if not cases:
        return None
    # Of many shapes, those where the networks spend their time.
    weight = {id(rows): rows["eager"].seconds * sum(rows["eager"].networks.values()) for rows in cases}
    heaviest = sorted(cases, key=lambda rows: -weight[id(rows)])[:most]
    heaviest.sort(key=lambda rows: (rows["fastcnn"].subject != "conv2d", rows["fastcnn"].subject, -_ratio(rows)))
    figure, axis = _subplots(figsize=(8.5, 0.6 + 0.21 * len(heaviest)))
    several = any(len(others(rows)) > 1 for rows in heaviest)
    for y, rows in enumerate(heaviest):
        eager, best = _ratio(rows), speed_up(rows, "best") or 0.0
        axis.barh(y, eager, 0.72, color=COLOURS["eager"] if eager >= 1 else "#d9a59b")
        if several:
            axis.plot([best, best], [y - 0.36, y + 0.36], color=INK, linewidth=2)
        axis.annotate(f"{eager:.1f}", (max(eager, best), y), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=7.5, color=MUTED)  # fmt: skip
    axis.axvline(1, color=COLOURS["fastcnn"], linewidth=1.6)
    axis.set_yticks(range(len(heaviest)), [rows["fastcnn"].label for rows in heaviest], fontsize=8, color=INK)
    axis.set_ylim(len(heaviest) - 0.4, -0.6)
    axis.set_xscale("log")
    _ratio_ticks(axis.xaxis)
    axis.set_xlim(0.25, axis.get_xlim()[1] * 1.1)
    axis.set_xlabel("time / fastcnn's")
    axis.grid(axis="x", color=GRID)
    axis.tick_params(axis="y", length=0)
    best_line = [_line(INK, "the best other")] if several else []
    axis.legend(
        handles=[_patch("eager"), *best_line, _line(COLOURS["fastcnn"], "fastcnn = 1")],
        ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize=9,
    )  # fmt: skip
    figure.tight_layout()
    _title(figure, "Layers of the networks, batch 1: time of others over fastcnn's", results,
           f"The {len(heaviest)} shapes that weigh most.")  # fmt: skip
    return figure


def _ratio_ticks(axis: Any) -> None:
    """A logarithmic axis of ratios in plain numbers: one network that gains 20 times must not flatten the others."""
    from matplotlib.ticker import FixedLocator, NullLocator

    ticks = (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def _ratio(rows: dict[str, Row]) -> float:
    return rows["eager"].seconds / rows["fastcnn"].seconds


def roofline(results: Results) -> Figure | None:
    """FLOP/s against FLOPs a byte, below the ceilings that were measured."""
    rows = [row for row in results.rows if row.kind == "op" and row.contender == "fastcnn" and row.batch == 1]
    if not rows:
        return None
    import numpy as np

    ceilings = Ceilings.from_json(results.about["ceilings"])
    dtype = rows[0].dtype
    figure, axis = _subplots(figsize=(8.5, 5.2))
    peak = ceilings.flops[dtype] / 1e9
    intensities = [row.flops / row.bytes for row in rows]
    low, high = min(0.1, *intensities) * 0.8, max(400.0, *intensities) * 1.3
    x = np.geomspace(low, high, 200)
    sizes = sorted(ceilings.bandwidth)
    named = {max(sizes): "memory", max(sizes, key=lambda s: ceilings.bandwidth[s]): "fastest cache"}
    for size, place in named.items():
        rate = ceilings.bandwidth[size] / 1e9
        axis.plot(x, np.minimum(peak, x * rate), color=INK if place == "memory" else MUTED,
                  linestyle="-" if place == "memory" else "--", linewidth=1.3)  # fmt: skip
        axis.annotate(f"{place}, {rate:.0f} GB/s", (low * 1.15, low * 1.15 * rate),
                      rotation=math.degrees(math.atan(rate)), fontsize=8, color=MUTED, va="bottom",
                      rotation_mode="anchor", transform_rotates_text=True)  # fmt: skip
    axis.annotate(f"products, {peak:.0f} GFLOP/s", (high, peak), ha="right", va="bottom", fontsize=8, color=MUTED)
    for function, (colour, marker) in FUNCTIONS.items():
        mine = [row for row in rows if row.subject == function]
        if mine:
            axis.scatter([r.flops / r.bytes for r in mine], [r.flops / r.seconds / 1e9 for r in mine], s=26, c=colour,
                         marker=marker, alpha=0.75, linewidths=0, label=function)  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(low, high)
    axis.set_xlabel("FLOPs a byte moved")
    axis.set_ylabel("GFLOP/s")
    axis.grid(color=GRID)
    axis.legend(loc="lower right", fontsize=8.5)
    figure.tight_layout()
    _title(figure, "Roofline of fastcnn's operators, batch 1", results,
           "FLOPs of the direct algorithm: Winograd's needs fewer, and may pass the ceiling.")  # fmt: skip
    return figure


def latency(results: Results) -> Figure | None:
    """An image's share of the time of a batch, against its size, a panel a network."""
    cases = network_cases(results)
    names = [n for n in NETWORKS if len({batch for name, batch in cases if name == n}) > 1]
    if not names:
        return None

    def lines(axis: Any, name: str) -> None:
        batches = sorted(batch for n, batch in cases if n == name)
        for contender in ORDER:
            points = [(b, cases[name, b][contender].seconds * 1e3 / b) for b in batches if contender in cases[name, b]]
            if points:
                _curve(axis, contender, points)
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.set_xticks(batches, [str(b) for b in batches])
        axis.minorticks_off()
        axis.set_xlabel("batch")

    return _panels(names, lines, "ms an image", "Latency against batch", results, "Time of a call over its images.")


def growth(results: Results) -> Figure | None:
    """Time against the image's size, a panel a network."""
    cases: dict[str, dict[int, dict[str, Row]]] = {}
    for (kind, label, batch, _, _, image), rows in results.cases.items():
        if kind == "network" and batch == 1 and label in FIVE:
            cases.setdefault(label, {})[image or NETWORKS[label].input[1]] = rows
    names = [name for name in FIVE if len(cases.get(name, {})) > 2]
    if not names:
        return None

    def lines(axis: Any, name: str) -> None:
        for contender in ("eager", "fastcnn"):
            by_size = sorted(cases[name].items())
            points = [(s, rows[contender].seconds * 1e3) for s, rows in by_size if contender in rows]
            if points:
                _curve(axis, contender, points)
        axis.set_xticks(sorted(cases[name]))
        axis.tick_params(axis="x", labelsize=8)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("image, pixels a side")

    return _panels(names, lines, "ms", "Cost as images grow, batch 1", results)


def overhead(results: Results) -> Figure | None:
    """The cost of a call with almost no work."""
    cases = {label: rows for (kind, label, *_), rows in results.cases.items() if kind == "overhead"}
    if not cases:
        return None
    present = [name for name in ORDER if any(name in rows for rows in cases.values())]
    figure, axis = _subplots(figsize=(8.5, 0.8 + 0.24 * len(cases) * (len(present) + 0.8)))
    for group, rows in enumerate(cases.values()):
        for i, name in enumerate(present):
            if name in rows:
                y = group + (i - (len(present) - 1) / 2) * 0.85 / len(present)
                value = rows[name].seconds * 1e6
                axis.barh(y, value, 0.8 / len(present), color=COLOURS[name])
                axis.annotate(f"{value:.1f}", (value, y), xytext=(4, 0), textcoords="offset points", va="center",
                              fontsize=8, color=MUTED)  # fmt: skip
    axis.set_yticks(range(len(cases)), list(cases), color=INK)
    axis.invert_yaxis()
    axis.set_xlabel("microseconds a call")
    axis.grid(axis="x", color=GRID)
    axis.tick_params(axis="y", length=0)
    axis.legend(handles=[_patch(name) for name in present], ncols=len(present), loc="lower right",
                bbox_to_anchor=(1.0, 1.0), fontsize=8.5)  # fmt: skip
    figure.tight_layout()
    _title(figure, "Cost of a call", results, "Operators with almost no work.")
    return figure


def _panels(
    names: list[str], lines: Callable[[Any, str], None], unit: str, title: str, results: Results, note: str = ""
) -> Figure:
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = _subplots(rows, columns, figsize=(3.6 * columns, 2.9 * rows), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        lines(axis, name)
        axis.set_title(name)
        axis.grid(color=GRID)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel(unit)
    seen: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            seen.setdefault(label, handle)
    figure.tight_layout()
    figure.legend(seen.values(), seen.keys(), ncols=min(5, len(seen)), loc="upper left", bbox_to_anchor=(0.0, 0.0),
                  fontsize=9)  # fmt: skip
    _title(figure, title, results, note)
    return figure


def _curve(axis: Any, contender: str, points: Sequence[tuple[float, float]]) -> None:
    own = contender == "fastcnn"
    axis.plot(*zip(*points, strict=True), marker="o", markersize=4 if own else 3, linewidth=2.2 if own else 1.2,
              color=COLOURS[contender], label=NAMES[contender], zorder=3 if own else 2)  # fmt: skip


def _patch(name: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=COLOURS[name], label=NAMES[name])


def _line(colour: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linewidth=2, label=label)


def _milliseconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if value < 0.1 else f"{value * 1e3:.0f} ms"


PLOTS: dict[str, Callable[[Results], Figure | None]] = {
    "networks": network_bars,
    "latency": latency,
    "layers": layer_bars,
    "roofline": roofline,
    "growth": growth,
    "memory": memory,
    "overhead": overhead,
}

__all__ = ["PLOTS", "best_other", "draw", "network_cases"]
