"""Figures in the documentation, written from result files so that text and measurement cannot drift apart.

In Markdown, a figure stands between two comments, in a line or as a block:

    It takes <!-- fastcnn: time resnet50 8 fastcnn -->100 ms<!-- end --> for eight pictures.

    <!-- fastcnn: table networks -->
    ...
    <!-- end -->

python -m fastcnn report --write-docs fills them in from results/*.json; a test fails if that would change a file.
In docs/zh their words are Chinese.

    table networks          fastcnn, PyTorch and the other engines: medians at every batch
    table operators         fastcnn against PyTorch over the layers of the networks, an operator or kernel size a line
    table peers             the version of every engine
    table classifiers       others' classifiers: share of the FLOPs on our kernels, time, speed against PyTorch
    table memory            peak memory of networks at batch 1, and what `prepack=False` costs in time
    time NAME BATCH WHO     a median: NAME a network, or an operator's label with _ for spaces
    ratio NAME BATCH WHO    WHO's time over fastcnn's; WHO may be `best`: the fastest other
    device                  the processor and threads
    table training          a step of training against PyTorch's; from results/training/*.json
    table claims [NUMBER]   the verdicts on the papers' claims, or all about one; from results/claims/*.json

A line that four spaces indent is an example, and left alone.

A file of several devices names one: `<!-- fastcnn(amd-epyc-avx2-2-threads): device -->`; without a name, the first
file by name that has the figure serves.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastcnn.core.files import write_whole
from fastcnn.workbench.claims import show
from fastcnn.workbench.claims.record import load as load_claims
from fastcnn.workbench.report import chinese
from fastcnn.workbench.report.plots import network_cases
from fastcnn.workbench.report.results import Results, Row
from fastcnn.workbench.report.summary import NAMES, ORDER, geometric_mean, seconds, speed_up

_FIGURE = re.compile(
    r"(?P<open><!-- fastcnn(?:\((?P<device>[^)]*)\))?: (?P<what>[^>]*?) -->)(?P<old>.*?)(?P<close><!-- end -->)",
    re.DOTALL,
)


def documents(root: Path) -> list[Path]:
    """The Markdown files that may hold figures."""
    return sorted([*root.glob("*.md"), *root.glob("docs/**/*.md")])


def write(root: Path) -> list[Path]:
    """Fills in the figures of every document under `root`; returns the files that changed."""
    changed = []
    for document in documents(root):
        old = document.read_text("utf-8")
        new = filled(old, root / "results", str(document))
        if new != old:
            write_whole(document, new)
            changed.append(document)
    return changed


def filled(text: str, folder: Path, name: str = "text") -> str:
    """`text` with every figure as the result files in `folder` have it.

    Raises:
        ValueError: a marker asks for a figure or device that there is not; the message quotes it.
    """
    loaded: dict[str, Any] = {}
    claims: dict[str, Any] = {}

    def replace(match: re.Match[str]) -> str:
        line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        if line.startswith("    "):
            return match[0]
        what, device = match["what"].split(), match["device"]
        if not loaded and not claims:
            loaded.update({path.stem: Results.load(path) for path in sorted(folder.glob("*.json"))})
            claims.update({path.stem: load_claims(path) for path in sorted(folder.glob("claims/*.json"))})
        files = loaded
        if what[:2] == ["table", "claims"]:
            files = claims
        elif what[:2] == ["table", "training"]:
            files = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("training/*.json"))}
        choice = [r for stem, r in files.items() if device in (None, stem)]
        if not choice:
            raise ValueError(f"{name}: {match['open']}: no result file {device or ''} in {folder}")
        failure: Exception | None = None
        for results in choice:
            try:
                figure = _FIGURES[" ".join(what[:2]) if what[0] == "table" else what[0]](results, *what[1:])
                figure = chinese.translated(figure) if "docs/zh/" in Path(name).as_posix() else figure
                return f"{match['open']}{figure}{match['close']}"
            except (KeyError, TypeError, IndexError) as error:
                failure = failure or error
        raise ValueError(f"{name}: {match['open']}: no such figure in the results: {failure}")

    return _FIGURE.sub(replace, text)


def _rows(results: Results, label: str, batch: str) -> dict[str, Row]:
    for kind, wanted in (("network", label), ("op", label.replace("_", " ")), ("overhead", label.replace("_", " "))):
        rows = results.find(kind, wanted, int(batch))
        if rows:
            return rows
    raise KeyError(f"{label} at batch {batch} was not run")


def _time(results: Results, label: str, batch: str, contender: str = "fastcnn") -> str:
    return seconds(_rows(results, label, batch)[contender].seconds)


def _ratio(results: Results, label: str, batch: str, contender: str = "best") -> str:
    ratio = speed_up(_rows(results, label, batch), contender)
    if ratio is None:
        raise KeyError(contender)
    return f"{ratio:.2f}"


def _device(results: Results) -> str:
    about = results.about
    if about["kind"] != "cpu":
        return str(about["device"])
    return f"{about['device']} ({about['isa']}), {about['threads']} threads"


def _networks(results: Results, _: str = "") -> str:
    cases = network_cases(results)
    if not cases:
        raise KeyError("no network was run")
    names = [name for name in ORDER if any(name in rows for rows in cases.values())]
    lines = [
        "| network | batch | " + " | ".join(NAMES[name] for name in names) + " | best other / fastcnn |",
        "|---" * 2 + "|--:" * (len(names) + 1) + "|",
    ]
    for (network, batch), rows in cases.items():
        fastest = min(rows.values(), key=lambda row: row.seconds).contender
        cells = []
        for name in names:
            text = seconds(rows[name].seconds) if name in rows else "-"
            cells.append(f"**{text}**" if name == fastest else text)
        ratio = speed_up(rows, "best")
        lines.append(f"| {network} | {batch} | {' | '.join(cells)} | {'-' if ratio is None else f'{ratio:.2f}'} |")
    return "\n" + "\n".join(lines) + "\n"


def _operators(results: Results, _: str = "") -> str:
    """Ratios above 1: fastcnn is faster."""
    grouped: dict[str, list[tuple[float, float]]] = {}
    for (kind, label, batch, dtype, _device, _image), rows in results.cases.items():
        ratio = speed_up(rows, "eager")
        if kind == "op" and batch == 1 and dtype == "float32" and ratio is not None:
            words = label.split()
            name = " ".join(words[:2]) if words[0] == "conv2d" else words[0]
            grouped.setdefault(name, []).append((ratio, rows["fastcnn"].of_floor))
    if not grouped:
        raise KeyError("no operator was run")
    lines = [
        "| operator | shapes | PyTorch / fastcnn, geometric mean | least | most | of the roofline, median |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, found in sorted(grouped.items()):
        ratios = [ratio for ratio, _ in found]
        floor = statistics.median(share for _, share in found)
        cells = (geometric_mean(ratios), min(ratios), max(ratios))
        lines.append(f"| {name} | {len(found)} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {floor:.0%} |")
    return "\n" + "\n".join(lines) + "\n"


def _peers(results: Results, _: str = "") -> str:
    return "\n" + "\n".join(f"- {name} {version}" for name, version in results.about["versions"].items()) + "\n"


def _claims(claims: dict[str, Any], _: str, number: str = "") -> str:
    return show.markdown(claims["claims"][number]) if number else show.summary(claims)


def _training(steps: dict[str, Any], _: str = "") -> str:
    lines = ["| network | batch | fastcnn | PyTorch | ratio | torch.compile |", "|---|--:|--:|--:|--:|--:|"]
    for row in steps["rows"]:
        times = {who: seconds(found["median"]) for who, found in row["seconds"].items()}
        lines.append(
            f"| {NAMES.get(row['network'], row['network'])} | {row['batch']} | {times['fastcnn']} | {times['eager']} | "
            f"{row['eager over fastcnn']:.2f} | {times.get('compile', '-')} |"
        )
    return "\n" + "\n".join(lines) + "\n"


def _classifiers(results: Results, _: str = "") -> str:
    cases = [rows for (kind, *_), rows in results.cases.items() if kind == "classifier" and "fastcnn" in rows]
    if not cases:
        raise KeyError("no classifier was run")
    lines = [
        "| network | GFLOP | on our kernels | fastcnn | PyTorch / fastcnn | torch.compile / fastcnn |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for rows in cases:
        own = rows["fastcnn"]
        ratios = (speed_up(rows, name) for name in ("eager", "compile"))
        cells = " | ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        name = own.label.replace("timm:", "timm ")
        lines.append(f"| {name} | {own.flops / 1e9:.2f} | {own.share:.0%} | {seconds(own.seconds)} | {cells} |")
    return "\n" + "\n".join(lines) + "\n"


def _memory(results: Results, _: str = "") -> str:
    names = ("eager", "fastcnn", "fastcnn_unpacked")
    lines = [
        "| network | " + " | ".join(f"{NAMES[name]}, MiB" for name in names) + " | time without prepack / with |",
        "|---|--:|--:|--:|--:|",
    ]
    for (network, batch), rows in network_cases(results).items():
        held = [rows[name].data["extra_info"].get("memory") for name in names if name in rows]
        if batch != 1 or len(held) < len(names) or None in held:
            continue
        cost = rows["fastcnn_unpacked"].seconds / rows["fastcnn"].seconds
        lines.append(f"| {network} | {' | '.join(f'{bytes / 2**20:.0f}' for bytes in held)} | {cost:.2f} |")
    if len(lines) == 2:
        raise KeyError("no network's memory was measured with and without prepack")
    return "\n" + "\n".join(lines) + "\n"


_FIGURES: dict[str, Callable[..., str]] = {
    "time": _time,
    "ratio": _ratio,
    "device": _device,
    "table networks": _networks,
    "table operators": _operators,
    "table peers": _peers,
    "table claims": _claims,
    "table classifiers": _classifiers,
    "table memory": _memory,
    "table training": _training,
}
