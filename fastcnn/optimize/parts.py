"""A model that runs as it is written, while those of its modules that can be captured run plans of their own.

PyTorch asks each module that is called for `_compiled_call_impl`, the place of `nn.Module.compile`. Once some model
runs in parts, that attribute of the class answers by thread: inside of such a model's call, and for a module that has
plans, it is what runs them. So the model and its modules are not touched, other threads and direct calls see nothing,
and a module that was compiled by hand keeps its own. The price is .15 us for each call of any module in the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from fastcnn.core.fingerprints import Fingerprints
from fastcnn.optimize import state
from fastcnn.optimize.report import Row


class Runs(Protocol):
    """What runs a part: its plans."""

    left: str  # why PyTorch runs every call of it; empty while plans may

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    def rows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Row]: ...


class _Here(threading.local):
    parts: dict[int, _Part] | None = None  # by id: the modules that run plans when they are called
    rows: list[Row] | None = None  # of what is called, where somebody asks


_here = _Here()


class _Redirect:
    """nn.Module._compiled_call_impl."""

    def __get__(self, module: nn.Module | None, owner: Any = None) -> Any:
        parts = _here.parts
        return None if parts is None else parts.get(id(module))


class Parts:
    """The modules below a model that may run plans. `with parts:` they do, in this thread.

    The outermost one that is called decides: the plans of a module that cannot be captured run it with these parts
    again, so that the largest that can be captured are found by going down.
    """

    def __init__(self, model: nn.Module, plans_of: Callable[[nn.Module, str], Runs]) -> None:
        self._model, self._plans_of = model, plans_of
        self._parts: dict[int, _Part] = {}
        self._find()
        if not isinstance(vars(nn.Module)["_compiled_call_impl"], _Redirect):
            nn.Module._compiled_call_impl = _Redirect()  # type: ignore[assignment]

    def _find(self) -> None:
        """Takes the modules as they are now; those that were there keep their plans."""
        known = self._parts
        self._tree = Fingerprints([module._modules for module in self._model.modules()])
        self._parts = {
            id(module): known.get(id(module)) or _Part(module, self._plans_of(module, path))
            for path, module in _runnable(self._model)
        }

    def run(self, call: Callable[[], Any]) -> Any:
        if self._tree.changed():
            self._find()
        before, _here.parts = _here.parts, self._parts
        try:
            return call()
        finally:
            _here.parts = before


@contextmanager
def noting_rows() -> Iterator[list[Row]]:
    """While it lasts, what runs each part that this thread calls is listed."""
    rows = _here.rows = []
    try:
        yield rows
    finally:
        _here.rows = None


class _Part:
    """A module that runs plans when it is called."""

    __slots__ = ("module", "plans")

    def __init__(self, module: nn.Module, plans: Runs) -> None:
        self.module, self.plans = module, plans

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not _is_only_forward(self.module) or (self.plans.left and _here.rows is None):
            return self.module._call_impl(*args, **kwargs)
        parts, _here.parts = _here.parts, None
        try:
            if _here.rows is not None:
                return self._explained(_here.rows, args, kwargs)
            return self.plans(args, kwargs)
        finally:
            _here.parts = parts

    def _explained(self, rows: list[Row], args: Any, kwargs: Any) -> Any:
        at = len(rows)
        try:
            return self.plans(args, kwargs)
        finally:
            rows[at:at] = self.plans.rows(args, kwargs)


def _runnable(model: nn.Module, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """The modules below that have a forward which nothing but PyTorch runs."""
    seen = {id(model)} if seen is None else seen
    for name, module in model.named_children():
        if id(module) in seen or _runs_otherwise(module):
            continue
        seen.add(id(module))
        where = f"{path}.{name}".lstrip(".")
        if type(module).forward is not nn.Module.forward:
            yield where, module
        yield from _runnable(module, where, seen)


def _runs_otherwise(module: nn.Module) -> bool:
    """Whether other code than its forward's runs it: scripted, or optimized by itself."""
    return isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_fastcnn")


def _is_only_forward(module: nn.Module) -> bool:
    """Whether a call of the module is its class's forward and nothing else: no hooks, no other forward."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return not (hooks or "forward" in vars(module) or state.has_global_hooks())
