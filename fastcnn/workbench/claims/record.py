"""The JSON file of a device: each claim with its rows, its verdict, and the run that it comes from."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastcnn.core.files import rows_as_json, write_whole
from fastcnn.workbench.claims.common import Claim, Found, verdict
from fastcnn.workbench.report import results
from fastcnn.workbench.report.timing import Effort

FORMAT = 1  # a file of another version is refused by name


def entry(claim: Claim, found: Found, about: dict[str, Any], effort: Effort, seconds: float) -> dict[str, Any]:
    """A claim as the file has it. `about` is `report.results.about` as it was before the measurement."""
    parts = claim.judge(found.tables)
    return {
        "title": claim.title,
        "sentence": claim.sentence,
        "source": claim.source,
        "measured": claim.measured,
        "verdict": verdict(parts),
        "parts": [part._asdict() for part in parts],
        "tables": found.tables,
        "curves": found.curves,
        "about": {**about, "settings": asdict(effort), "seconds": seconds,
                  "datetime": datetime.now(timezone.utc).isoformat()},
    }  # fmt: skip


def empty() -> dict[str, Any]:
    """A file without claims, for this device."""
    return {"fastcnn_claims": FORMAT, "device": results.device_name(), "machine": results.machine(), "claims": {}}


def load(path: Path) -> dict[str, Any]:
    """Reads a file.

    Raises:
        ValueError: it is not such a file.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a file of claims: {error}") from None
    found = data.get("fastcnn_claims") if isinstance(data, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: a file of claims has format {FORMAT}, this one {found}")
    return data


def open_for(path: Path) -> dict[str, Any]:
    """The file to add to: the one that is there, if it is this device's, or an empty one.

    Raises:
        ValueError: the file is another device's, or not one of claims.
    """
    if not path.exists():
        return empty()
    data = load(path)
    if data["device"] != results.device_name():
        raise ValueError(f"claims: {path} is of {data['device']}, this is {results.device_name()}")
    return data


def save(data: dict[str, Any], path: Path) -> None:
    data["claims"] = dict(sorted(data["claims"].items(), key=lambda item: int(item[0])))
    write_whole(path, rows_as_json(data))
