"""Loading weights from a file the user names; nothing is ever downloaded."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch

AnyModule = TypeVar("AnyModule", bound=torch.nn.Module)
PathLike = str | os.PathLike[str]

# Files saved before BatchNorm counted its batches lack this buffer, and inference never reads it.
OPTIONAL_SUFFIX = "num_batches_tracked"


def read_state_dict(path: PathLike) -> dict[str, torch.Tensor]:
    """Reads a state_dict from a .safetensors, .pth or .pt file onto the CPU.

    .pth and .pt files are read with ``weights_only=True``, so that a file cannot run code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the suffix is another one, the file cannot be read, or it holds something other than
            named tensors.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise ValueError(f"weights: {path} ends in {path.suffix!r}, expected .safetensors, .pth or .pt")
    if not path.is_file():
        raise FileNotFoundError(f"weights: no file {path}")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format fails with exceptions of its own
        reason = str(error).split("\n")[0]
        raise ValueError(f"weights: cannot read {path}: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"weights: {path} holds something other than a state_dict (names to tensors)")
    return state


def load_weights(model: AnyModule, weights: PathLike | None, ignore: tuple[str, ...] = ()) -> AnyModule:
    """Fills `model` from the file `weights`, if one is named, and returns the model.

    Every key and shape is compared before the first value is copied: a file that does not fit leaves the
    model as it was. Keys of the file that start with a prefix in `ignore` are passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or its keys or shapes differ from the model's.
    """
    if weights is None:
        return model
    state = {key: value for key, value in read_state_dict(weights).items() if not key.startswith(ignore)}
    expected = model.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith(OPTIONAL_SUFFIX)]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} (file {tuple(state[key].shape)}, model {tuple(value.shape)})"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        _list("missing keys", missing),
        _list("unexpected keys", unexpected),
        _list("other shapes", shapes),
    ]
    if any(problems):
        reasons = "; ".join(filter(None, problems))
        raise ValueError(f"weights: {weights} does not fit {type(model).__name__}: {reasons}")
    model.load_state_dict(state, strict=False)  # strict but for OPTIONAL_SUFFIX: checked above
    return model


def _list(title: str, names: Iterable[str], shown: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{title}: {', '.join(names[:shown])}{more}" if names else ""
