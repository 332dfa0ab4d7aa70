"""`fastcnn.optimize`: a network that computes the same on fastcnn's kernels."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import nn

from fastcnn.optimize.module import Optimized, Options, optimized
from fastcnn.optimize.passes import PASSES, to_bfloat16

__all__ = ["PASSES", "Optimized", "optimize"]


def optimize(
    model: Any,
    *,
    cuda_graphs: bool = True,
    prepack: bool = True,
    check: bool = True,
    dtype: torch.dtype | None = None,
    batch_invariant: bool = False,
) -> nn.Module:
    """The model, running on fastcnn's kernels.

    optimize(model)(x) = model.eval()(x), to rounding

    Args:
        model: any module, or an ExportedProgram. It is neither copied nor changed: the result shares its attributes,
            parameters, submodules and hooks. A model in training mode is run as in evaluation mode until `train()` is
            called on the result.
        prepack: on a CPU, keep a copy of each convolution's weights in the form that its kernel reads, up to four times
            as large. Without, each call packs them, some at a time: less memory, and slower at small batches. No
            effect on other devices.
        cuda_graphs: on a GPU, replay a CUDA graph from the third call with inputs of one shape on; the graphs of the
            last 8 shapes are kept, with their activations.
        check: run the model beside its plan in the first two calls of each signature, and keep the plan only if the
            two agree.
        dtype: torch.bfloat16 computes a float32 model in bfloat16: float32 in and out, sums in float32, values between
            operators and weights rounded. On a CPU without such instructions, float32 stays, with one warning.
        batch_invariant: on a CPU, the bits of an image's result do not depend on the batch that it comes in, on its
            place in it, or on the number of threads: kernels are chosen by one image and one thread.

    Raises TypeError if model is not a torch.nn.Module or ExportedProgram, ValueError for another dtype.
    """
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize: model is {type(model).__name__}; a torch.nn.Module is needed")
    if isinstance(model, Optimized):
        model = model._fastcnn.given  # type: ignore[union-attr]
    if isinstance(model, torch.jit.ScriptModule):
        warnings.warn("fastcnn.optimize: a scripted module runs as it is; give the module it was made of", stacklevel=2)
        return model
    if dtype not in (None, torch.float32, torch.bfloat16):
        raise ValueError(f"optimize: dtype is {dtype}, must be torch.bfloat16, torch.float32 or None")
    if dtype is torch.bfloat16 and (reason := to_bfloat16.unavailable()):
        _warn_once(f"fastcnn.optimize: computes in float32, not in bfloat16: {reason}")
        dtype = None
    options = Options(cuda_graphs, prepack, check, batch_invariant, dtype)
    return optimized(model, options, as_eval=model.training)


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=3)
