"""The compiled extension and its problem structs; in one sentence why there is none where it cannot be loaded."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["DTYPES", "extension", "pointer", "struct", "unavailable"]

T = TypeVar("T")


class _Missing:
    """Stands for the extension where it could not be loaded: whoever asks it for something gets the reason."""

    def __getattr__(self, name: str) -> object:
        raise ImportError(unavailable)


unavailable: str | None = None  # why there is no extension
try:
    import fastcnn._C as extension
except ImportError as error:
    unavailable = f"the native extension fastcnn._C could not be loaded ({error})"
    extension = _Missing()  # type: ignore[assignment]

DTYPES: dict[torch.dtype, str] = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def struct(kind: type[T], **fields: object) -> T:
    """A problem struct of csrc/base/problem.h with the given fields, the rest zero; dtypes and activations by name."""
    problem = kind()
    for field, value in fields.items():
        if isinstance(value, torch.dtype):
            value = getattr(extension.DType, DTYPES[value])
        elif field == "activation":
            value = getattr(extension.Activation, str(value or "none"))
        setattr(problem, field, value)
    return problem


def pointer(tensor: Tensor | None) -> int:
    """The address of a tensor's first element, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
