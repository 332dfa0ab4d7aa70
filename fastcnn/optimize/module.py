"""The module that `optimize` returns: the given model, seen through a class whose forward runs plans.

The two objects share one `__dict__`: attributes, parameters, submodules, hooks and flags are the given model's own.
Plans are kept beside it, in a slot.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import nn

from fastcnn.optimize.plans import Options, Plans
from fastcnn.optimize.report import Report


class Optimized:
    """What `isinstance` knows an optimized module by. Its class is also that of the given model."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        plans = self._fastcnn  # type: ignore[attr-defined]
        return _rebuild, (plans.given, plans.options, plans.as_eval)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        plans = self._fastcnn  # type: ignore[attr-defined]
        return _rebuild(copy.deepcopy(plans.given, memo), plans.options, plans.as_eval)

    def __fastcnn_refresh__(self) -> None:
        self._fastcnn.refresh()  # type: ignore[attr-defined]

    def __fastcnn_explain__(self, *args: Any, **kwargs: Any) -> Report:
        return self._fastcnn.explain(args, kwargs)  # type: ignore[attr-defined]


def optimized(model: nn.Module, options: Options, as_eval: bool) -> nn.Module:
    given: Any = type(model)
    made = object.__new__(_class_for(given))
    object.__setattr__(made, "__dict__", vars(model))
    object.__setattr__(made, "_fastcnn", Plans(model, options, as_eval))
    return made


_rebuild = optimized


@functools.cache
def _class_for(given: Any) -> Any:
    """A class like the given one, whose forward runs plans where it may."""
    own = given.forward

    @functools.wraps(own)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        plans = None if torch.compiler.is_compiling() else getattr(self, "_fastcnn", None)
        return own(self, *args, **kwargs) if plans is None else plans(args, kwargs)

    def get_training(self: Any) -> bool:
        return vars(self)["training"] and not self._fastcnn.as_eval

    def set_training(self: Any, mode: bool) -> None:
        self._fastcnn.as_eval = self._fastcnn.as_eval and not mode
        vars(self)["training"] = mode

    namespace = {
        "__slots__": ("_fastcnn",),
        "__doc__": given.__doc__,
        "__module__": given.__module__,
        "forward": forward,
        "training": property(get_training, set_training),
    }
    return type(given)(f"Optimized{given.__name__}", (Optimized, given), namespace)
