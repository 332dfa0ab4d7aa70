"""What a choice is remembered by, and whether a call may go to its remembered kernel straight away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastcnn.core import native
from fastcnn.core.backend import global_backend, local_backend
from fastcnn.core.explain import recorders


def hashable(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(tuple(v) if isinstance(v, list) else v for v in values)


dynamo_compiles = torch.compiler.is_dynamo_compiling
profiler_enabled, _transforms = torch.autograd._profiler_enabled, torch._C._functorch.peek_interpreter_stack
# Of each, whether something takes part that wants to see the operators: a mode, a tracer, a transform of torch.func.
_OBSERVERS = torch._C._len_torch_dispatch_stack, torch._C._is_tracing, _transforms


def is_dense(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout is torch.strided


def is_inference(tensors: Sequence[Tensor | None]) -> bool:
    """Whether the result alone is wanted: no gradient, transform, mode or tracer takes part."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return False
    return forward_ad._current_level < 0 and not any(observes() for observes in _OBSERVERS)


def needs_definition(tensors: Sequence[Tensor | None]) -> bool:
    """Whether only the differentiable definition serves: complex numbers, torch.func, forward-mode gradients."""
    first = tensors[0]
    return _transforms() is not None or forward_ad._current_level >= 0 or (first is not None and first.is_complex())


def describe_in_python(tensors: tuple[Tensor | None, ...], out: Tensor | None) -> Any:
    """What the tensors have in common with those of calls that may be served alike; None if one is no plain tensor."""
    found: list[Any] = []
    for t in (*tensors, out):
        if t is None:
            found.append(None)
        elif (
            type(t) in (Tensor, torch.nn.Parameter)
            and t.layout is torch.strided
            and (t.is_cpu or t.is_cuda)
            and not (t.is_complex() or t.is_neg() or t._is_zerotensor())
        ):
            found += (t.shape, t.stride(), t.dtype, t.device)
        else:
            return None
    return tuple(found)


# Without the extension, or DLPack's table of functions in torch (2.10), every call takes the long way.
describe, recall = describe_in_python, lambda *call: None
ATTACHED: bool = native.extension is not None and native.extension.attach(
    Tensor, torch.nn.Parameter,
    (profiler_enabled, *_OBSERVERS), torch.is_grad_enabled, forward_ad,
    recorders, local_backend, global_backend, torch.get_num_threads,
)  # fmt: skip
if ATTACHED:
    describe, recall = native.extension.describe, native.extension.recall  # type: ignore[union-attr]
