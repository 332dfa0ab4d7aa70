"""Tuned choices: which plan or configuration `python -m fastcnn tune` measured as the fastest, layer by layer.

One JSON file a device. fastcnn/tuning/<device>.json is what came with the package; a file of the same name in the
user's cache, where `tune` writes, overrules it entry by entry. A choice that a kernel no longer offers is not taken.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fastcnn.core import ledger
from fastcnn.core.files import write_whole

PACKAGE, USER = ledger.PATH.parent, ledger.USER_PATH.parent
FORMAT = 1  # a file of another version is refused by name


class Entry(NamedTuple):
    """What was measured of one layer: medians in microseconds, the relative L2 error against float64."""

    choice: Any  # a plan's name (cuda), a configuration's fields (triton)
    microseconds: float
    model_microseconds: float | None  # of what the cost model takes; None if that could not be timed
    error: float
    candidates: int  # how many were timed
    date: str  # ISO 8601


def file_name(device: str) -> str:
    """nvidia-h100-80gb-hbm3.json"""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"


@cache
def choices(device: str, backend: str) -> dict[str, Any]:
    """What to choose on a device, by the layer's key (`tuning_key` of its operator); empty where nothing was tuned."""
    found: dict[str, Any] = {}
    for folder in (PACKAGE, USER):
        entries = read(folder / file_name(device))["entries"].get(backend, {})
        found |= {name: entry["choice"] for name, entry in entries.items()}
    return found


def read(path: Path) -> dict[str, Any]:
    """A file's content; one without entries if there is no such file.

    Raises:
        ValueError: it is not a tuning file.
    """
    if not path.exists():
        return {"format": FORMAT, "entries": {}}
    try:
        data = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a tuning file: {error}; remove it and run python -m fastcnn tune") from None
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT or not isinstance(data, dict):
        raise ValueError(f"{path}: a tuning file has format {FORMAT}, this one {found}")
    return data


def read_for(path: Path, device: str) -> dict[str, Any]:
    """`read` of a file that is to hold what was measured on the device.

    Raises:
        ValueError: it is not a tuning file, or another device's.
    """
    data = read(path)
    if data.get("device", device) != device:
        raise ValueError(f"tune: {path} is of {data['device']}, this is {device}")
    return data


def write(path: Path, about: dict[str, Any], backend: str, name: str, entry: Entry) -> None:
    """Enters one layer, in the place of an older entry; `about` says on which device, by which versions.

    Raises:
        ValueError: the file is another device's.
    """
    data = read_for(path, about["device"]) | about
    data["entries"].setdefault(backend, {})[name] = entry._asdict()
    data["entries"][backend] = dict(sorted(data["entries"][backend].items()))
    write_whole(path, json.dumps(data, indent=1) + "\n")  # every process that runs a convolution here reads it
    choices.cache_clear()
