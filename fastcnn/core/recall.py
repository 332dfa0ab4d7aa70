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


def observed() -> bool:
    """Whether a mode, a tracer, a transform or a forward-mode gradient takes part, and wants to see the operators."""
    return forward_ad._current_level >= 0 or any(observes() for observes in _OBSERVERS)


def is_dense(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout is torch.strided


def needs_definition(tensors: Sequence[Tensor | None]) -> bool:
    """Whether only the differentiable definition serves: complex numbers, torch.func, forward-mode gradients."""
    first = tensors[0]
    return _transforms() is not None or forward_ad._current_level >= 0 or (first is not None and first.is_complex())


def _describe(tensors: tuple[Tensor | None, ...], out: Tensor | None) -> Any:
    """What a key says of tensors, for a torch without DLPack's table of functions; None if one is no plain tensor."""
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


def attach(by_attributes: bool = False) -> bool:
    """Tells the extension what it asks at each call; whether it reads tensors through DLPack's table (torch 2.10).

    by_attributes: read them by their attributes even where torch has the table, as an older torch needs it.
    """
    return native.unavailable is None and native.extension.attach(
        Tensor, torch.nn.Parameter,
        profiler_enabled, _OBSERVERS, torch.is_grad_enabled, forward_ad,
        recorders, local_backend, global_backend, torch.get_num_threads, _describe, by_attributes,
    )  # fmt: skip


ATTACHED: bool = attach()


# What these decide is written down in csrc/python/call.h. Without the extension no call is known again: each goes
# through torch.library and has its kernel chosen anew.
def key(*call: Any) -> Any: ...


def recall(*call: Any) -> Tensor | None: ...


def is_inference(tensors: tuple[Tensor | None, ...], /) -> bool:
    return False


if native.unavailable is None:
    key, recall = native.extension.key, native.extension.recall
    is_inference = native.extension.is_inference
