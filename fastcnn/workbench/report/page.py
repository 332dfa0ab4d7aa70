"""The report as one HTML page that needs nothing else: plots inside, tables that sort by a click."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

from fastcnn.core.files import write_whole
from fastcnn.workbench.report import plots
from fastcnn.workbench.report.results import Results, Row
from fastcnn.workbench.report.summary import (
    NAMES,
    ORDER,
    best_other,
    geometric_mean,
    missing_reasons,
    seconds,
    slower,
    speed_up,
    title,
)

CAPTIONS = {
    "networks": "Each bar: another engine's time over fastcnn's, in the same run, taking turns.",
    "latency": "Time of a call divided by its images, against images a call.",
    "layers": "Single layers, bias and ReLU included, as the networks have them; batch normalisation folded.",
    "roofline": "Each point is an operator at a shape of the networks. The ceilings were measured before the run.",
    "growth": "Images larger and smaller than the networks were made for.",
    "memory": "Weights, packed weights and activations, after loading and two calls.",
    "overhead": "What a call costs before it computes anything; recording gradients goes through torch.library.",
}

STYLE = """
:root { --ink: #1d2430; --muted: #6b7484; --line: #e4e7ec; --own: #d1351b; }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); max-width: 68rem; margin: 0 auto;
  padding: 2.5rem 1.5rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; } * + h1 { margin-top: 5rem; }
h2 { margin: 3rem 0 .4rem; font-size: 1.35rem; } h3 { margin: 2rem 0 .4rem; }
p, li { max-width: 46rem; } .muted { color: var(--muted); } a { color: var(--own); }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1.1rem; max-width: 15rem; }
.card b { display: block; font-size: 1.7rem; line-height: 1.3; }
.card span { color: var(--muted); font-size: .9rem; }
figure { margin: 1.5rem 0 2.5rem; } figure img { max-width: 100%; }
figcaption { color: var(--muted); font-size: .9rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; width: 100%; }
th, td { padding: .32rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { cursor: pointer; position: sticky; top: 0; background: #fff; }
td.own { font-weight: 600; } td.win { color: #2d7a3a; } td.loss { color: var(--own); }
details { margin: 1rem 0; } summary { cursor: pointer; font-weight: 600; }
/* A plot squeezed to a phone's width cannot be read: it keeps its size and scrolls, as the tables do. */
@media (max-width: 48rem) {
  body { padding: 1.2rem 1rem; } h1 { font-size: 1.5rem; }
  .cards { gap: .6rem; } .card { flex: 1 1 8.5rem; padding: .6rem .8rem; }
  figure { overflow-x: auto; } figure img { max-width: none; width: 50rem; } figcaption { position: sticky; left: 0; }
  td:first-child, th:first-child { position: sticky; left: 0; background: #fff; }
  td:first-child { white-space: normal; min-width: 8.5rem; }
}
"""

SCRIPT = """
document.querySelectorAll("th").forEach(head => head.addEventListener("click", () => {
  const table = head.closest("table"), column = head.cellIndex, down = head.dataset.down !== "1";
  const value = row => { const cell = row.cells[column], n = parseFloat(cell.dataset.value);
    return isNaN(n) ? cell.textContent : n; };
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const x = value(a), y = value(b);
    if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
    return (x > y ? 1 : x < y ? -1 : 0) * (down ? 1 : -1); });
  head.dataset.down = down ? "1" : "0"; table.tBodies[0].append(...rows);
}));
"""


def write(files: list[Results], old: Results | None, folder: Path) -> Path:
    """Writes report.html and the plots into `folder`; returns the page's path."""
    if not files:
        raise ValueError("report: no result file was given")
    body = "".join(_device(results, old, folder) for results in files)
    page = folder / "report.html"
    write_whole(
        page,
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>fastcnn: measurements</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}</style></head><body>{body}<script>{SCRIPT}</script></body></html>\n",
    )
    return page


def _device(results: Results, old: Results | None, folder: Path) -> str:
    about = results.about
    drawn = plots.draw(results, folder)
    threads = f", {about['threads']} threads" if about["kind"] == "cpu" else ""
    commit = about["commit"]
    state = " with local changes" if commit["dirty"] else ""
    parts = [
        f"<h1>fastcnn on {escape(about['device'])}{threads}</h1>",
        f"<p class='muted'>{escape(results.data['datetime'][:16].replace('T', ' '))} UTC · commit "
        f"{escape(commit['id'][:10] or 'unknown')}{state} · {_versions(results)}</p>",
        _cards(results),
    ]
    for name, path in drawn.items():
        image = base64.b64encode(path.read_bytes()).decode()
        caption = escape(CAPTIONS[name])
        parts.append(
            f"<figure><img alt='{caption}' src='data:image/png;base64,{image}'>"
            f"<figcaption>{caption}</figcaption></figure>"
        )
    if old is not None:
        parts.append(_slower(results, old))
    parts += [_missing(results), _tables(results), _method(results)]
    return "".join(parts)


def _versions(results: Results) -> str:
    return escape(", ".join(f"{name} {version}" for name, version in results.about["versions"].items()))


def _cards(results: Results) -> str:
    """The figures that a reader looks for first."""
    cards = []
    networks = [rows for (kind, *_, image), rows in results.cases.items() if kind == "network" and not image]
    layers = [rows for (kind, *_), rows in results.cases.items() if kind == "op"]
    for rows, over, text in (
        (networks, "best", "networks: the fastest other's time over fastcnn's, geometric mean"),
        (networks, "eager", "networks: PyTorch's time over fastcnn's, geometric mean"),
        (layers, "eager", "layers: PyTorch's time over fastcnn's, geometric mean"),
    ):
        ratios = [ratio for case in rows if (ratio := speed_up(case, over)) is not None]
        if ratios:
            cards.append((f"{geometric_mean(ratios):.2f}x", text))
    compared = [case for case in networks if speed_up(case, "best") is not None]
    if compared:
        won = sum((speed_up(case, "best") or 0) > 1 for case in compared)
        cards.append((f"{won} of {len(compared)}", "networks and batches where fastcnn is the fastest"))
    if not cards:
        return ""
    return (
        "<div class='cards'>"
        + "".join(f"<div class='card'><b>{value}</b><span>{escape(text)}</span></div>" for value, text in cards)
        + "</div>"
    )


def _tables(results: Results) -> str:
    titles = {
        "network": "Networks",
        "classifier": "Classifiers of others",
        "op": "Operators",
        "overhead": "Cost of a call",
    }
    parts: list[str] = []
    for kind, heading in titles.items():
        cases = [rows for case, rows in results.cases.items() if case[0] == kind]
        if cases:
            parts.append(f"<details{'' if parts else ' open'}><summary>{heading}: every figure</summary>")
            parts.append(_table(cases) + "</details>")
    return "<h2>Figures</h2><p class='muted'>Medians. A click on a heading sorts.</p>" + "".join(parts)


def _table(cases: list[dict[str, Row]]) -> str:
    names = [name for name in ORDER if any(name in rows for rows in cases)]
    # The ratio first: what is at the right of many engines has to be scrolled to.
    head = ["case", "best other / fastcnn", *(NAMES[name] for name in names), "of floor", "error", "kernel"]
    lines = []
    for rows in cases:
        own, first = rows.get("fastcnn"), next(iter(rows.values()))
        cells = [f"<td>{escape(title(first))}</td>"]
        ratio = speed_up(rows, "best")
        best = best_other(rows)
        if ratio is None or best is None:
            cells.append("<td>-</td>")
        else:
            kind = "win" if ratio > 1 else "loss"
            cells.append(f"<td class='{kind}' data-value='{ratio}'>{ratio:.2f} ({NAMES[best.contender]})</td>")
        for name in names:
            row = rows.get(name)
            kind = " class='own'" if name == "fastcnn" else ""
            cells.append(
                f"<td{kind} data-value='{row.seconds}'>{seconds(row.seconds)}</td>" if row is not None else "<td>-</td>"
            )
        if own is None:
            cells += ["<td>-</td>"] * 3
        else:
            cells.append(f"<td data-value='{own.of_floor}'>{own.of_floor:.0%}</td>")
            cells.append(f"<td data-value='{own.error}'>{own.error:.0e}</td>")
            cells.append(f"<td>{escape(', '.join(own.kernels)) or '-'}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    return f"<div class='scroll'><table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def _missing(results: Results) -> str:
    reasons = missing_reasons(results)
    if not reasons:
        return ""
    lines = "".join(
        f"<li>{escape(NAMES.get(name, name))}, {count} cases: {escape(reason)}</li>"
        for name, (reason, count) in reasons.items()
    )
    return f"<h2>Missing</h2><ul>{lines}</ul>"


def _slower(results: Results, old: Results) -> str:
    changes = slower(results, old)
    text = f"<h2>Slower than {escape(str(old.path or 'before'))}</h2>"
    if not changes:
        return text + "<p>Nothing.</p>"
    rows: Iterable[str] = (
        f"<tr><td>{escape(title(c.row))}</td><td>{seconds(c.before)}</td><td>{seconds(c.row.seconds)}</td>"
        f"<td class='loss' data-value='{c.ratio}'>{c.ratio:.2f}</td></tr>"
        for c in changes
    )
    head = "<tr><th>case</th><th>was</th><th>is</th><th>ratio</th></tr>"
    return f"{text}<div class='scroll'><table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"


def _method(results: Results) -> str:
    settings, ceilings = results.about["settings"], results.about["ceilings"]
    bandwidth = ", ".join(f"{int(size) / 2**20:g} MiB {rate / 1e9:.0f}" for size, rate in ceilings["bandwidth"].items())
    products = ", ".join(f"{dtype} {rate / 1e9:.0f}" for dtype, rate in ceilings["flops"].items())
    return (
        "<h2>How it was measured</h2>"
        "<p>Every contender's result was compared with float64 before it was timed; a wrong one is not timed. "
        f"Contenders take turns in {settings['blocks']} blocks, each after a pause of {settings['pause'] * 1e3:.0f} ms "
        f"and a warm-up of {settings['warm_up'] * 1e3:.0f} ms or more. Figures are medians; result files hold the "
        "quantiles. Peers run in float32 with as many threads as PyTorch. The machine's load before the run was "
        f"{results.about['load']:.1f}.</p>"
        f"<p>Ceilings: products, GFLOP/s: {products}; copies, GB/s by footprint: {bandwidth}. The floor of a case is, "
        "summed over its layers, the larger of FLOPs and bytes over its ceiling.</p>"
    )
