"""python -m fastcnn bench and report: what the thin wrappers in fastcnn/__main__.py call."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fastcnn.workbench.report import measure, page, results, roofline, suite, timing
from fastcnn.workbench.report.cases import KINDS, Case
from fastcnn.workbench.report.measure import Measurement, WrongResult
from fastcnn.workbench.report.results import Results
from fastcnn.workbench.report.summary import ORDER, missing_reasons, seconds, slower, title


def bench(
    console: Console, *, kinds: Iterable[str] = ("network", "op", "overhead"), networks: str = "",
    contenders: str = "", match: str = "", batches: str = "", device: str = "", quick: bool = True,
    seconds_each: float = 0.0, memory: bool = False, threads: int = 0, output: Path | None = None, update: bool = False,
) -> Results:  # fmt: skip
    """Runs the chosen cases with a progress bar and prints a table; `output` is a file or a folder.

    The file is written anew after every case, so that an interrupted run keeps what it has. With `update` it keeps the
    cases that were not chosen, too: each row names its own commit.

    Raises:
        ValueError: an unknown kind, network, contender or device, nothing was chosen, or the file to update is of
            another device or number of threads.
        WrongResult: at the end, if a contender computed something wrong; it was not timed.
    """
    if threads:
        torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    plan = _plan(device, quick, split(networks), split(contenders), split(batches), seconds_each, memory)
    chosen = _chosen(plan, tuple(kinds), match)
    if output is not None:
        output = file_in(output, results.file_name(device))
    old = _to_update(output, device) if output is not None and update else None
    warn_if_busy(console)
    made, wrong = _measured(console, chosen, plan, device, old, output)
    print_table(made, console)
    if output is not None:
        console.print(f"[bold]{output}[/bold]: {len(made.rows)} rows", highlight=False)
    for failure in wrong:
        console.print(f"[red]wrong result[/red]: {failure}", highlight=False)
    if wrong:
        raise wrong[0]
    return made


def _plan(
    device: str, quick: bool, networks: tuple[str, ...], contenders: tuple[str, ...], batches: tuple[str, ...],
    seconds_each: float, memory: bool,
) -> suite.Plan:  # fmt: skip
    """The suite's plan with what the command line changes in it."""
    plan = suite.plan(device, quick, networks, contenders)
    plan = replace(plan, memory=plan.memory or memory)
    if seconds_each:
        plan = replace(plan, effort=replace(timing.FULL, seconds=seconds_each))
    if batches:
        sizes = tuple(batch(size) for size in batches)
        plan = replace(plan, selection=replace(plan.selection, op_batches=sizes, network_batches=sizes))
    return plan


def _chosen(plan: suite.Plan, kinds: tuple[str, ...], match: str) -> list[Case]:
    """The cases of these kinds whose name holds the text."""
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"bench: unknown kind {kind!r}; allowed: {', '.join(KINDS)}")
    chosen = [case for kind in kinds for case in plan.cases(kind) if match in case.group and plan.contenders(case)]
    if not chosen:
        raise ValueError(f"bench: no case is called {match!r} in {', '.join(kinds)}")
    return chosen


def _to_update(file: Path, device: str) -> Results:
    """What the file holds already, if it is this device's."""
    old = Results.load(file)
    theirs = f"{old.about['device']} with {old.about['threads']} threads"
    mine = f"{results.device_name(device)} with {torch.get_num_threads()} threads"
    if theirs != mine:
        raise ValueError(f"bench: {file} is of {theirs}, this is {mine}")
    return old


def _measured(
    console: Console, chosen: list[Case], plan: suite.Plan, device: str, old: Results | None, output: Path | None
) -> tuple[Results, list[WrongResult]]:
    """Measures the cases, into the rows of `old`; the file is written after each."""
    rows: dict[str, list[dict[str, Any]]] = {}  # by case
    for row in old.rows if old is not None else []:
        rows.setdefault(row.data["group"], []).append(row.data)
    wrong: list[WrongResult] = []
    with progress_bar(console) as progress:
        task = progress.add_task("ceilings of the device", total=len(chosen))
        ceilings = roofline.measure(device, plan.selection.dtypes)
        about = results.about(device, ceilings.to_json(), plan.settings)
        if old is not None:
            measured = {case.group for case in chosen}
            about["missing"] += [missing for missing in old.about["missing"] if missing["case"] not in measured]
        made = results.assemble([], about)
        for case in chosen:
            progress.update(task, description=case.group)
            rows[case.group] = []
            wrong += _one(case, plan, ceilings, rows[case.group], about["missing"])
            progress.advance(task)
            made = results.assemble([row for case_rows in rows.values() for row in case_rows], about)
            if output is not None:
                made.save(output)
    return made, wrong


def _one(
    case: Case, plan: suite.Plan, ceilings: roofline.Ceilings, rows: list[dict[str, Any]], missing: list[Any]
) -> list[WrongResult]:
    """Measures one case into `rows` and `missing`; returns the wrong results."""
    wrong = []
    contenders, with_memory = plan.contenders(case), plan.with_memory(case)
    for name, outcome in measure.measure(case, contenders, ceilings, plan.effort, with_memory).items():
        if isinstance(outcome, Measurement):
            rows.append(outcome.row())
        elif isinstance(outcome, WrongResult):
            wrong.append(outcome)
            missing.append({"case": case.group, "contender": name, "reason": f"wrong result, not timed: {outcome}"})
        else:
            missing.append({"case": case.group, "contender": name, "reason": str(outcome)})
    return wrong


def print_table(made: Results, console: Console) -> None:
    """A line a case: fastcnn's time, the others' times over it, and how near the floor it is."""
    names = [name for name in ORDER if name != "fastcnn" and any(row.contender == name for row in made.rows)]
    table = Table(
        title=f"{made.about['device']}, {made.about['threads']} threads; others as multiples of fastcnn's time",
        title_justify="left",
    )
    table.add_column("case")
    table.add_column("fastcnn", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("of floor", justify="right")
    for contenders in made.cases.values():
        first = next(iter(contenders.values()))
        own = contenders.get("fastcnn")
        cells = [title(first), seconds(own.seconds) if own else "-"]
        for name in names:
            row = contenders.get(name)
            cells.append("-" if row is None else f"{row.seconds / own.seconds:.2f}" if own else seconds(row.seconds))
        cells.append(f"{own.of_floor:.0%}" if own else "-")
        table.add_row(*cells)
    for column in table.columns:
        column.overflow = "fold"
    console.print(table)
    for name, (reason, count) in missing_reasons(made).items():
        console.print(f"missing in {count} cases: {name}: {reason}", highlight=False, markup=False)


def report(console: Console, files: list[Path], against: Path | None, output: Path) -> Path:
    """Writes the HTML page and its plots for the result files, and prints what got slower since `against`."""
    loaded = [Results.load(file) for file in files]
    old = None if against is None else Results.load(against)
    path = page.write(loaded, old, output)
    console.print(f"[bold]{path}[/bold] and {len(list(output.glob('*.png')))} plots", highlight=False)
    if old is not None:
        for made in loaded:
            print_slower(made, old, console)
    return path


def print_slower(made: Results, old: Results, console: Console) -> None:
    """A table of fastcnn's rows that got slower, both absolutely and against a baseline of the same run."""
    changes = slower(made, old)
    if not changes:
        console.print("nothing got slower")
        return
    table = Table("case", "was", "is", "ratio", "of eager, was", "is", title="Slower", title_justify="left")
    for change in changes:
        table.add_row(
            title(change.row), seconds(change.before), seconds(change.row.seconds), f"{change.ratio:.2f}",
            *(f"{x:.2f}" if x else "-" for x in (change.relative_before, change.relative)),
        )  # fmt: skip
    console.print(table)


def file_in(output: Path, name: str) -> Path:
    """The file to write: `output`, or the one of this name in it if it is a folder."""
    return output / name if output.is_dir() or not output.suffix else output


def warn_if_busy(console: Console) -> None:
    load = os.getloadavg()[0]
    if load > torch.get_num_threads() / 2:
        console.print(f"[yellow]the machine is busy (load {load:.1f}): figures will mislead[/yellow]")


def progress_bar(console: Console) -> Progress:
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*bar, TextColumn("left:"), TimeRemainingColumn(), console=console, transient=True)


def batch(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"batch {text!r} is not a whole number of at least 1")
    return int(text)


def split(names: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in names.split(","))))
