"""The hardware ledger: which GPU kernel was verified on which device, when, with which error and time.

fastcnn/tuning/ledger.json is the data: a list of entries, each the outcome of a verification run on real
hardware. A GPU kernel that no entry shows verified for this architecture and dtype is "not yet run on
hardware", and is not chosen unless its backend is demanded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

PATH = Path(__file__).parents[1] / "tuning" / "ledger.json"
USER_PATH = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastcnn" / "ledger.json"


class Entry(NamedTuple):
    """One verification: `error` is the relative L2 error against float64, `microseconds` the median time."""

    kernel: str  # "<op>.<backend>.<name>", as `python -m fastcnn kernels` prints it
    dtype: str  # "float32", "tf32", "float16" or "bfloat16"
    architecture: str  # "sm_90"
    device: str
    date: str  # ISO 8601
    error: float
    microseconds: float | None = None
    problem: str = ""


@cache
def entries() -> tuple[Entry, ...]:
    """Every entry of the ledger: those that came with the package, and those of `python -m fastcnn verify` here."""
    return (*read(PATH), *read(USER_PATH))


def read(path: Path) -> tuple[Entry, ...]:
    """The entries in one file; none if there is no such file."""
    if not path.exists():
        return ()
    return tuple(Entry(**entry) for entry in json.loads(path.read_text())["entries"])


def write(path: Path, new: Sequence[Entry]) -> None:
    """Enters `new`, in the place of older entries for the same kernel, dtype and architecture."""
    replaced = {entry[:3] for entry in new}
    kept = [entry for entry in read(path) if entry[:3] not in replaced]
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [entry._asdict() for entry in sorted([*kept, *new])]
    path.write_text(json.dumps({"entries": rows}, indent=1) + "\n")
    entries.cache_clear()


def reason_against(kernel: str, dtype: str, architecture: str) -> str | None:
    """Why the kernel must not be chosen by default on this architecture; None if it was verified there."""
    if any((e.kernel, e.dtype, e.architecture) == (kernel, dtype, architecture) for e in entries()):
        return None
    return f"not yet run on hardware: {kernel} in {dtype} on {architecture}"


def status(kernel: str) -> str:
    """How a kernel was verified, in words."""
    found = [e for e in entries() if e.kernel == kernel]
    if not found:
        return "not yet run on hardware"
    return "; ".join(f"{e.dtype} on {e.device} ({e.architecture}), {e.date}, error {e.error:.1e}" for e in found)
