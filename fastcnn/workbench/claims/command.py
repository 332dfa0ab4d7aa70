"""python -m fastcnn claims: what the thin wrapper in fastcnn/__main__.py calls."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from fastcnn.workbench.claims import CLAIMS, record, show
from fastcnn.workbench.report import commands, results
from fastcnn.workbench.report.timing import Effort


def run(console: Console, *, only: str = "", seconds: float = 0.5, output: Path | None = None) -> dict[str, Any]:
    """Measures claims on the CPU, prints each, and returns what the file holds.

    `output` is a file or a folder. Claims that are already in the file and not measured now stay as they are; it is
    written anew after every claim.

    Raises:
        ValueError: there is no such claim, or the file is another device's.
        ImportError: scikit-learn is missing, whose digits claims 5, 6 and 8 read.
        WrongResult: something computed a wrong result; its claim was not measured.
    """
    numbers = chosen(only)
    if output is not None:
        output = commands.file_in(output, results.file_name())
    data = record.empty() if output is None else record.open_for(output)
    effort = Effort(seconds, blocks=4, least_samples=4, pause=0.05, warm_up=0.03)
    commands.warn_if_busy(console)
    with commands.progress_bar(console) as progress:
        task = progress.add_task("claims", total=len(numbers))
        for number in numbers:

            def tell(what: str, number: int = number) -> None:
                progress.update(task, description=f"claim {number}: {what}")

            about, started = results.about("cpu", {}, {}), time.perf_counter()
            found = CLAIMS[number].measure(effort, tell)
            made = record.entry(CLAIMS[number], found, about, effort, time.perf_counter() - started)
            data["claims"][str(number)] = made
            show.printed(number, made, console)
            progress.advance(task)
            if output is not None:
                record.save(data, output)
    if output is not None:
        console.print(f"[bold]{output}[/bold]: {len(data['claims'])} claims", highlight=False)
        if importlib.util.find_spec("matplotlib") is not None:
            from fastcnn.workbench.claims import plots

            for picture in plots.draw(data["claims"], output):
                console.print(f"[bold]{picture}[/bold]", highlight=False)
    return data


def chosen(only: str) -> list[int]:
    """The claims that "1,4" names; all if it names none."""
    numbers = [text.strip() for text in only.split(",") if text.strip()]
    for number in numbers:
        if not number.isdigit() or int(number) not in CLAIMS:
            raise ValueError(f"claims: there is no claim {number!r}; allowed: {', '.join(map(str, CLAIMS))}")
    return sorted({int(number) for number in numbers}) or list(CLAIMS)
