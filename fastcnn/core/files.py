"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
