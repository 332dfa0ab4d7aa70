"""The hardware ledger: which GPU kernel was verified on which device, by which plan, and where it beats PyTorch.

Two lists. `entries`: one a kernel, plan and dtype that `python -m fastcnn verify` ran on hardware, verified or failed.
`races`: one a kernel and kind of problem, with its median time beside that of PyTorch's own operator on that device.

fastcnn/tuning/ledger.json came with the package; a file in the user's cache, where `verify` writes, overrules it. A
GPU kernel is chosen by default only where an entry shows its plan verified, from the source that is installed, on this
architecture, and a race shows that it wins on this device.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fastcnn.core import native
from fastcnn.core.files import rows_as_json, write_whole

PACKAGE = Path(__file__).parent.parent
PATH: Path = PACKAGE / "tuning" / "ledger.json"
USER_PATH: Path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastcnn" / "ledger.json"
FORMAT = 2

# A kernel must beat PyTorch by more than timings differ from run to run.
MARGIN = 1.02


class Entry(NamedTuple):
    """One verification of a kernel's plan."""

    kernel: str  # "<op>.<backend>.<name>", as `python -m fastcnn kernels` prints it
    plan: str  # tile or configuration; "" where the kernel has but one
    dtype: str  # "float32", "tf32", "float16" or "bfloat16"
    architecture: str  # "sm_90"
    device: str
    driver: str
    version: str  # of fastcnn
    source: str  # hash of the kernels' sources, see `source`
    date: str  # ISO 8601
    error: float | None  # the largest relative L2 error against float64 over its cases
    problem: str = ""  # where that was, or where it failed
    failed: str = ""  # what went wrong; "" if it was verified

    @property
    def key(self) -> tuple[str, ...]:
        return self.kernel, self.plan, self.dtype, self.architecture


class Race(NamedTuple):
    """A kernel timed beside PyTorch's own operator, on one device: medians of interleaved calls, L2 cold."""

    kernel: str
    dtype: str
    device: str
    kind: str  # see `kind`
    microseconds: float
    pytorch_microseconds: float
    plan: str
    problem: str
    source: str
    date: str

    @property
    def key(self) -> tuple[str, ...]:
        return self.kernel, self.dtype, self.device, self.kind


class Ledger(NamedTuple):
    entries: tuple[Entry, ...] = ()
    races: tuple[Race, ...] = ()


def read(path: Path) -> Ledger:
    """What one file holds; nothing if there is no such file.

    Raises:
        ValueError: it is not a ledger, or one of another version.
    """
    if not path.exists():
        return Ledger()
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"{path}: a ledger has format {FORMAT}, this one {data['format']}")
        return Ledger(tuple(Entry(**entry) for entry in data["entries"]), tuple(Race(**race) for race in data["races"]))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a ledger ({error}); remove it and run python -m fastcnn verify") from None


def write(path: Path, entries: Sequence[Entry] = (), races: Sequence[Race] = ()) -> None:
    """Enters what is new, in the place of what had the same key.

    Several processes may write at once: each holds a lock, and replaces the file in one step.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        old = read(path)
        merged = Ledger(tuple(_by_key((*old.entries, *entries))), tuple(_by_key((*old.races, *races))))
        data = {"format": FORMAT, "entries": [e._asdict() for e in merged.entries],
                "races": [r._asdict() for r in merged.races]}  # fmt: skip
        write_whole(path, rows_as_json(data))
    forget()


def _by_key(rows: Iterable[Any]) -> list[Any]:
    """Of rows with the same key the last; sorted."""
    return [row for _, row in sorted({row.key: row for row in rows}.items())]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_suffix(".lock").open("w") as lock:
        with contextlib.suppress(ImportError):  # where there is no fcntl, the last to write wins
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def forget() -> None:
    """Reads the files anew when next asked."""
    _found.cache_clear()


class _Found(NamedTuple):
    """Both ledgers by key, the user's over the package's."""

    entries: dict[tuple[str, ...], Entry]
    races: dict[tuple[str, ...], Race]


@cache
def _found() -> _Found:
    found = _Found({}, {})
    for path in (PATH, USER_PATH):
        try:
            ledger = read(path)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        found.entries.update((e.key, e) for e in ledger.entries)
        found.races.update((r.key, r) for r in ledger.races)
    return found


def entries() -> tuple[Entry, ...]:
    """Every entry in force."""
    return tuple(_found().entries.values())


@cache
def source(backend: str) -> str:
    """A hash of the sources that a backend's kernels are made of; an entry speaks for no other."""
    if backend == "cuda":
        return native.extension.cuda.source if native.unavailable is None and hasattr(native.extension, "cuda") else ""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*triton*")):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if file.suffix == ".py":
                found.update(file.read_bytes())
    return found.hexdigest()[:12]


def reason_against(kernel: str, dtype: str, architecture: str, plan: str | None = None) -> str | None:
    """Why a kernel's plan must not be chosen by default on this architecture; None if it was verified there.

    plan: None for any of them.
    """
    if plan is not None:
        entry = _found().entries.get((kernel, plan, dtype, architecture))
        return _reason(kernel, plan, dtype, architecture, [entry] if entry else [])
    mine = [e for e in entries() if (e.kernel, e.dtype, e.architecture) == (kernel, dtype, architecture)]
    return _reason(kernel, "", dtype, architecture, mine)


def _reason(kernel: str, plan: str, dtype: str, architecture: str, mine: Sequence[Entry]) -> str | None:
    what = f"{kernel}{f' {plan}' if plan else ''} in {dtype} on {architecture}"
    if not mine:
        return f"not yet run on hardware: {what}"
    current = [e for e in mine if e.source == source(kernel.split(".")[1])]
    if not current:
        return f"{what} was verified as it was on {mine[0].date}, its source has changed since"
    if not any(e for e in current if not e.failed):
        return f"{what} failed when it was verified: {current[0].failed}"
    return None


def reason_against_race(kernel: str, dtype: str, device: str, kind: str) -> str | None:
    """Why PyTorch's operator is to be preferred on this device; None if the kernel won their race."""
    race = _found().races.get((kernel, dtype, device, kind))
    if race is None or race.source != source(kernel.split(".")[1]):
        return f"never timed against PyTorch on this device: {kernel} in {dtype}, {kind}"
    ratio = race.pytorch_microseconds / race.microseconds
    if ratio < MARGIN:
        return f"PyTorch, {1 / ratio:.2f} times as fast here ({kind})"
    return None


def kind(problem: Any) -> str:
    """The class of problems that one race speaks for: the form of its sums, and its size."""
    conv = getattr(problem, "first", problem)  # of a pair of operators, its first
    if not hasattr(conv, "R"):
        elements = 1
        for extent in problem.output_shape:
            elements *= extent
        return "large" if elements >= 1 << 20 else "small"
    pixels = conv.N * conv.P * conv.Q
    size = "few pixels" if pixels < 1 << 12 else "many pixels" if pixels < 1 << 16 else "most pixels"
    return f"{_form(conv)}, {size}"


def _form(conv: Any) -> str:
    per_group = conv.C // conv.groups
    if conv.groups > 1:
        return "depthwise" if per_group == 1 else "grouped"
    if conv.C <= 4:
        return "first layer"
    filter_size = f"{conv.R}x{conv.S}" if (conv.R, conv.S) in ((1, 1), (3, 3)) else "large filter"
    return f"{filter_size}, {'up to 64' if conv.C <= 64 else 'over 64'} channels"


@functools.cache
def hint(architecture: str, device: str) -> None:
    """Says once a process that nothing is verified on this architecture, if that is so."""
    if not any(e.architecture == architecture for e in entries()):
        warnings.warn(
            f'fastcnn: no kernel is verified on this {device}; "python -m fastcnn verify" takes about 5 minutes',
            stacklevel=2,
        )


def status(kernel: str) -> str:
    """How a kernel was verified, in words."""
    found = [e for e in entries() if e.kernel == kernel]
    if not found:
        return "not yet run on hardware"
    lines = []
    for e in {(e.dtype, e.device, e.architecture, bool(e.failed)): e for e in found}.values():
        result = f"FAILED: {e.failed}" if e.failed else f"error {e.error:.1e}"
        lines.append(f"{e.dtype} on {e.device} ({e.architecture}), {e.date}, {result}")
    return "; ".join(lines)
