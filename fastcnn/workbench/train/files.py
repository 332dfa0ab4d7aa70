"""What a run leaves: each file is written beside its place and put there whole, so that a full disk or a kill leaves
the one before it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from fastcnn.core.files import written_whole


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes `path` by write(another name), then gives it its name. Raises what `write` raises; `path` stays then."""
    with written_whole(path) as partial:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())


def save_weights(path: Path, state: dict[str, torch.Tensor]) -> None:
    contiguous = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    replace(path, lambda to: safetensors.torch.save_file(contiguous, to))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    replace(path, lambda to: torch.save(state, to))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Raises ValueError for a file that is no checkpoint of a run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load fails with exceptions of many kinds
        raise ValueError(f"train: cannot read the checkpoint {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or "settings" not in state:
        raise ValueError(f"train: {path} is no checkpoint of a run")
    return state


def save_json(path: Path, value: Any) -> None:
    replace(path, lambda to: to.write_text(json.dumps(value, indent=1) + "\n"))
