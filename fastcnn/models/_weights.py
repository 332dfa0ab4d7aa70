"""Loading weights from a file the user names; nothing is ever downloaded, no code from a file is ever run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
import torch

AnyModule = TypeVar("AnyModule", bound=torch.nn.Module)
PathLike = str | os.PathLike[str]
State = dict[str, torch.Tensor]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# Under these a training script's checkpoint keeps the weights; averaged ones are meant to be used where there are any.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
# What DataParallel, torch.compile and Lightning put before each name.
PREFIXES = ("module.", "_orig_mod.", "model.")
# Files saved before BatchNorm counted its batches lack this buffer, and inference never reads it.
OPTIONAL_SUFFIX = "num_batches_tracked"


class LoadReport(NamedTuple):
    """What a file of weights turned out to be, and what of it did not fit: names of the network's state_dict."""

    path: str
    model: str
    variant: str
    num_classes: int
    missing: list[str]
    left_over: list[str]
    other_shapes: list[str]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.left_over or self.other_shapes)

    def _problems(self) -> str:
        titles = ("missing keys", "unexpected keys", "other shapes")
        lists = (self.missing, self.left_over, self.other_shapes)
        return "; ".join(filter(None, map(_list, titles, lists)))

    def refusal(self, network: str) -> str:
        return f"weights: {self.path} does not fit {network}: {self._problems()}"

    def __str__(self) -> str:
        found = f"weights: {self.path} is {self.model}, variant {self.variant}, {self.num_classes} classes"
        return found if self.fits else f"{found}; {self._problems()}"


def read_state_dict(path: PathLike) -> State:
    """Reads a state_dict from a .safetensors, .pth, .pt or .bin file onto the CPU.

    All but safetensors are read with ``weights_only=True``, so that a file cannot run code. A checkpoint's
    ``{"state_dict": ...}`` is opened, ``module.``, ``_orig_mod.`` and ``model.`` before every name are taken off.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the suffix is another one, the file cannot be read, or it holds something other than
            named tensors.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"weights: {path} ends in {path.suffix!r}, expected .safetensors, .pth, .pt or .bin")
    if not path.is_file():
        raise FileNotFoundError(f"weights: no file {path}")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format fails with exceptions of its own
        reason = str(error).split("\n")[0]
        raise ValueError(f"weights: cannot read {path}: {reason}") from error
    state = _unwrapped(content)
    if state is None:
        raise ValueError(f"weights: {path} holds something other than a state_dict (names to tensors)")
    for prefix in _prefixes_of(state):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _unwrapped(content: Any) -> State | None:
    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return dict(content)
    return next((state for key in WRAPPERS if key in content and (state := _unwrapped(content[key]))), None)


def _prefixes_of(state: State) -> Iterable[str]:
    keys = list(state)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in keys)), None):
        keys = [key.removeprefix(prefix) for key in keys]
        yield prefix


def compare(model: torch.nn.Module, state: State) -> tuple[list[str], list[str], list[str]]:
    """What `model` misses in `state`, what it has no place for, and where the shapes differ (in words)."""
    expected = model.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith(OPTIONAL_SUFFIX)]
    left_over = [key for key in state if key not in expected]
    shapes = [
        f"{key} (file {tuple(state[key].shape)}, model {tuple(value.shape)})"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    return missing, left_over, shapes


def fill(model: torch.nn.Module, state: State) -> None:
    """Copies what fits."""
    expected = model.state_dict()
    fits = {key: value for key, value in state.items() if key in expected and expected[key].shape == value.shape}
    model.load_state_dict(fits, strict=False)


def load_weights(model: AnyModule, weights: PathLike | None) -> AnyModule:
    """Fills `model` from the file `weights`, if one is named, and returns the model.

    Every key and shape is compared before the first value is copied: a file that does not fit leaves the
    model as it was.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or its keys or shapes differ from the model's.
    """
    if weights is None:
        return model
    state = model.adapt_state_dict(read_state_dict(weights))  # type: ignore[operator]
    problems = compare(model, state)
    if any(problems):
        report = LoadReport(str(weights), "", "", 0, *problems)
        raise ValueError(report.refusal(type(model).__name__))
    fill(model, state)
    return model


def _list(title: str, names: list[str], shown: int = 8) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{title}: {', '.join(names[:shown])}{more}" if names else ""
