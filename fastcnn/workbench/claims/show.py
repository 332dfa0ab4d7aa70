"""A claim's entry (see record.py) as tables, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

COLOURS = {"holds": "green", "holds in part": "yellow", "does not hold here": "red"}


def cell(value: Any) -> str:
    """A word, a number to three figures, or a time's median."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        value = value["ms"]
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _numeric(rows: list[dict[str, Any]], column: str) -> bool:
    return not any(isinstance(row[column], str) for row in rows)


def printed(number: int, entry: dict[str, Any], console: Console) -> None:
    """Prints a claim: its sentence, its tables, its verdict and what this rests on."""
    console.rule(f"{number}. {entry['title']}")
    console.print(Text(f"{entry['sentence']}\n({entry['source']})\n"))
    console.print(Text(f"Measured: {entry['measured']}\n"))
    for title, rows in entry["tables"].items():
        table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        for column in rows[0]:
            numeric = _numeric(rows, column)
            table.add_column(column, justify="right" if numeric else "left", no_wrap=not numeric, overflow="fold")
        for row in rows:
            table.add_row(*map(cell, row.values()))
        console.print(table)
    console.print(Text(entry["verdict"], style=f"bold {COLOURS[entry['verdict']]}"))
    for part in entry["parts"]:
        console.print(Text(f"  {'yes' if part['holds'] else 'no '}  {part['text']}"))


def markdown(entry: dict[str, Any]) -> str:
    """A claim's verdict, what it rests on, and its tables."""
    return "\n" + "\n".join(_markdown_lines(entry)) + "\n"


def _markdown_lines(entry: dict[str, Any]) -> Iterator[str]:
    word = entry["verdict"]
    yield f"**{word[0].upper()}{word[1:]}.**"
    yield ""
    for part in entry["parts"]:
        yield f"- {'yes' if part['holds'] else 'no'}: {part['text']}"
    for title, rows in entry["tables"].items():
        yield f"\n{title[0].upper()}{title[1:]}:\n"
        yield f"| {' | '.join(rows[0])} |"
        yield "|" + "".join("--:|" if _numeric(rows, column) else "---|" for column in rows[0])
        for row in rows:
            yield f"| {' | '.join(map(cell, row.values()))} |"


def summary(data: dict[str, Any]) -> str:
    """All claims of a file in one Markdown table."""
    lines = ["| | claim | verdict | of its parts hold |", "|--:|---|---|--:|"]
    for number, entry in data["claims"].items():
        held = sum(part["holds"] for part in entry["parts"])
        lines.append(f"| {number} | {entry['title']} | {entry['verdict']} | {held} of {len(entry['parts'])} |")
    return "\n" + "\n".join(lines) + "\n"
