"""Loads the compiled extension, or says in one sentence why it cannot be used."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch

extension: ModuleType | None
unavailable: str | None  # why `extension` is None
try:
    extension = importlib.import_module("fastcnn._C")

    unavailable = None
except ImportError as error:
    extension = None
    unavailable = f"the native extension fastcnn._C could not be loaded ({error})"

DTYPES: dict[torch.dtype, str] = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def library() -> Any:
    """The compiled extension. Raises ImportError with the reason where there is none."""
    if extension is None:
        raise ImportError(unavailable)
    return extension


def struct(name: str, **fields: Any) -> Any:
    """A problem struct of csrc/base/problem.h with the given fields, the rest zero."""
    C = library()
    problem = getattr(C, name)()
    for field, value in fields.items():
        if field.endswith("dtype"):
            value = getattr(C.DType, DTYPES[value])
        elif field == "activation":
            value = getattr(C.Activation, value or "none")
        setattr(problem, field, value)
    return problem


def pointer(tensor: torch.Tensor | None) -> int:
    """The address of a tensor's first element, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
