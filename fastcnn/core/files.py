"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def written_whole(path: Path | str) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its name when the block ends well.

    Interrupted (Ctrl-C, a full disk), the block leaves what was at `path` as it was. The folder is made if missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")  # keeps the ending, which tells some writers the format
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path | str, text: str) -> None:
    """`Path.write_text`, at once or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, "utf-8")


def rows_as_json(data: dict[str, Any]) -> str:
    """JSON whose changes can be read: each key of `data`, and each object in a list, on a line of its own.

    Raises:
        ValueError: a number in it is NaN or infinite.
    """
    return _text(data, "") + "\n"


def _holds_rows(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_rows, value.values()))
    return isinstance(value, list) and any(isinstance(item, dict) or _holds_rows(item) for item in value)


def _text(value: Any, indent: str) -> str:
    if indent and not _holds_rows(value):
        return json.dumps(value, allow_nan=False)
    inner = indent + " "
    if isinstance(value, dict):
        parts, brackets = [f"{json.dumps(key)}: {_text(item, inner)}" for key, item in value.items()], "{}"
    else:
        parts, brackets = [_text(item, inner) for item in value], "[]"
    lines = f",\n{inner}".join(parts)
    return f"{brackets[0]}\n{inner}{lines}\n{indent}{brackets[1]}"
