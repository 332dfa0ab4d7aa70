"""The given model's own call, and what it leaves behind beside its result."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fastcnn.core.fingerprints import Fingerprints
from fastcnn.optimize import state, structure


def run_as_written(model: nn.Module, as_eval: bool, args: Any, kwargs: Any) -> Any:
    """The model's forward, in PyTorch; as_eval: in evaluation mode, whichever it is in."""
    with _evaluating(model) if as_eval else nullcontext():
        if torch.is_grad_enabled() and (copies := _differentiable(model)):
            return torch.func.functional_call(model, copies, args, kwargs)
        return type(model).forward(model, *args, **kwargs)


_lock = threading.Lock()
_evaluated: dict[int, tuple[int, list[nn.Module]]] = {}  # by id: how many calls run, the modules that were in training


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode for a while: it was given in training mode, to be run in evaluation mode.

    Where calls overlap, the last one to end restores the flags: else another thread's would end in training mode.
    """
    with _lock:
        calls, training = _evaluated.get(id(model)) or (0, [module for module in model.modules() if module.training])
        _evaluated[id(model)] = calls + 1, training
        for module in training:
            module.training = False
    try:
        yield
    finally:
        with _lock:
            calls, training = _evaluated.pop(id(model))
            if calls > 1:
                _evaluated[id(model)] = calls - 1, training
            else:
                for module in training:
                    module.training = True


def _differentiable(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the tensors that were made in inference mode: autograd keeps no such tensor."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.clone() for name, tensor in named if tensor.is_inference()}


class Before:
    """What is compared around a call."""

    def __init__(self, tensors: Sequence[Tensor], args: Any, kwargs: Any, held: state.Snapshot) -> None:
        self._state = held
        self._weights, self._inputs = Fingerprints(held.tensors()), Fingerprints(tensors)
        self._form = structure.flatten((args, kwargs), [])
        self._devices = {t.device for t in tensors if t.is_cuda}
        self._random = self._random_state()

    def _random_state(self) -> list[Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]

    def changes(self, args: Any, kwargs: Any) -> str:
        if not self._state.holds():
            return f"forward changes {self._state.changes() or 'its state'}"
        if self._weights.changed():
            return "forward writes to a weight or buffer"
        if self._inputs.changed() or structure.flatten((args, kwargs), []) != self._form:
            return "forward writes to an argument"
        same = all(map(torch.equal, self._random, self._random_state()))
        return "" if same else "forward draws random numbers"
