"""`fastcnn.optimize`: a network that computes the same on fastcnn's kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastcnn.optimize.module import Optimized, Options, optimized
from fastcnn.optimize.passes import PASSES

__all__ = ["PASSES", "Optimized", "optimize"]


def optimize(model: Any, *, cuda_graphs: bool = True, prepack: bool = True, check: bool = True) -> nn.Module:
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

    Raises TypeError if model is not a torch.nn.Module or ExportedProgram.
    """
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    if not isinstance(model, nn.Module):
        raise TypeError(f"optimize: model is {type(model).__name__}; a torch.nn.Module is needed")
    return optimized(model, Options(cuda_graphs, prepack, check), as_eval=model.training)
