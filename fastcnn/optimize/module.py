"""The module that `optimize` returns: the given model, seen through a class whose forward runs plans.

The two objects share one `__dict__`: attributes, parameters, submodules, hooks and flags are the given model's own.
Plans are kept beside it, in a slot.
"""

from __future__ import annotations

import copy
import functools
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastcnn.core import packing, recall
from fastcnn.core.backend import current_backend
from fastcnn.core.fingerprints import Fingerprints
from fastcnn.core.plan import arenas
from fastcnn.optimize import cuda_graphs, state, structure
from fastcnn.optimize.adapter import adapt
from fastcnn.optimize.agreement import difference, tolerance
from fastcnn.optimize.capture import record
from fastcnn.optimize.constants import Constants, Moved
from fastcnn.optimize.passes import PASSES, fuse_conv_pool
from fastcnn.optimize.passes.to_bfloat16 import to_bfloat16
from fastcnn.optimize.program import Program
from fastcnn.optimize.report import Report
from fastcnn.optimize.structure import Builder


class Options(NamedTuple):
    """The choices of `optimize` that a module keeps: see there."""

    cuda_graphs: bool = True
    prepack: bool = True
    check: bool = True
    batch_invariant: bool = False
    dtype: torch.dtype | None = None
    finish: Callable[[Any], None] | None = None  # a pass of the caller's, after all others


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


@dataclass
class Captured:
    """What runs calls of one signature: a program, or the given model for a reason."""

    program: Program | None
    build: Builder | None
    reason: str = ""
    rounding: float = 0.0  # the largest relative difference that is none
    checks: int = 0  # calls that are still to be compared with the given model


class Plans:
    """The plans of one model, by signature, and what they were made for."""

    MAX_PROGRAMS = 64
    ATTEMPTS = 3  # a model may make caches, or its parameters, in its first calls

    def __init__(self, given: nn.Module, options: Options, as_eval: bool) -> None:
        self.given, self.options, self.as_eval = given, options, as_eval
        self._lock = threading.RLock()
        self._failures: dict[Hashable, int] = {}
        self._warned = False
        self._state: state.Snapshot | None = None  # that plans are made for
        self._seen: state.Snapshot | None = None  # another, seen at the last call
        self._forget()

    def _forget(self) -> None:
        self._captured: OrderedDict[Hashable, Captured] = OrderedDict()
        self._constants, self._arenas, self._graphs = Constants(), arenas(), cuda_graphs.CudaGraphs()
        self._foreign: list[Tensor] = []  # tensors from outside that plans read
        self._weights = Fingerprints(())

    # ---- calls ---------------------------------------------------------------------------------------------

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _observed() or (torch.is_grad_enabled() and self._wants_gradients(args, kwargs)):
            return self._eager(args, kwargs)
        tensors: list[Tensor] = []
        try:
            key = self._key(args, kwargs, tensors)
            captured = self._captured.get(key)
        except (structure.Opaque, TypeError):
            return self._eager(args, kwargs)
        if not self._unchanged():
            return self._eager(args, kwargs)
        if captured is None or captured.checks or self._captured.get(key) is not captured:
            with self._lock:
                captured = self._captured.get(key)
                if captured is None:
                    return self._first_call(key, tensors, args, kwargs)
                if captured.checks:
                    return self._checked_call(key, captured, tensors, args, kwargs)
        if captured.program is None or captured.build is None:
            return self._eager(args, kwargs)
        return captured.build(self._run(captured.program, tensors))

    def _key(self, args: Any, kwargs: Any, tensors: list[Tensor]) -> Hashable:
        return self.as_eval, _signature(args, kwargs, tensors)

    def _run(self, program: Program, tensors: Sequence[Tensor]) -> Sequence[Any]:
        if torch._C._is_any_autocast_enabled():
            with _no_autocast():
                return program(tensors)
        if program.on_cuda and self.options.cuda_graphs and cuda_graphs.takes(tensors):
            return self._graphs(program, tensors)
        return program(tensors)

    def _eager(self, args: Any, kwargs: Any) -> Any:
        with _evaluating(self.given) if self.as_eval else nullcontext():
            if torch.is_grad_enabled() and (copies := _differentiable(self.given)):
                return torch.func.functional_call(self.given, copies, args, kwargs)
            return type(self.given).forward(self.given, *args, **kwargs)

    def _wants_gradients(self, args: Any, kwargs: Any) -> bool:
        inputs: list[Tensor] = []
        try:
            structure.flatten((args, kwargs), inputs)
        except (structure.Opaque, TypeError):
            return True
        return any(t.requires_grad for t in inputs) or any(p.requires_grad for p in self.given.parameters())

    def _unchanged(self) -> bool:
        """Whether the model's state is that of the plans; makes what was made from weights anew where they changed."""
        if self._state is None or not self._state.holds():
            with self._lock:
                if not self._adopt_state():
                    return False
        if self._weights.changed():
            with self._lock:
                if self._weights.changed():
                    self.refresh()
        return True

    def _adopt_state(self) -> bool:
        """Whether the model's state is what it was at the last call, new as it may be: plans are made for it then.

        What is replaced for one call, as torch.func.functional_call does, leaves the plans of before as they are.
        """
        seen, self._seen = self._seen, None
        if self._state is not None and self._state.holds():
            return True
        if self._state is None or (seen is not None and seen.holds()):
            self._state = seen or state.Snapshot(self.given)
            self._forget()
            self._failures.clear()
            return True
        self._seen = state.Snapshot(self.given)
        return False

    def refresh(self) -> None:
        """Makes everything that was made from weights anew."""
        with self._lock:
            try:
                self._constants.refresh()
            except Moved:
                self._forget()
            self._weights.take()

    def _watch(self, tensors: Iterable[Tensor]) -> None:
        assert self._state is not None
        held = {id(place[key]) for place, key in self._state.tensors()}
        self._foreign += [t for t in tensors if id(t) not in held]
        self._weights = Fingerprints((*self._state.tensors(), *self._foreign))

    # ---- the first calls of a signature --------------------------------------------------------------------

    def _first_call(self, key: Hashable, tensors: list[Tensor], args: Any, kwargs: Any) -> Any:
        """The given model runs and is recorded; its plan is kept if it agrees."""
        against = self._reason_against(tensors)
        if against:
            return self._give_up(key, against, args, kwargs)
        names = {id(m): name for name, m in self.given.named_modules()}
        torch.clear_autocast_cache()
        before = _Before(tensors, args, kwargs, self._state)
        recording = record(lambda: self._eager(args, kwargs), tensors, state.tensor_names(self.given), names)
        reason = recording.reason or self._side_effect(before, args, kwargs)
        if reason or recording.network is None or recording.build is None:
            self._failed(key, reason)
            return recording.result
        network = recording.network
        dtypes = {t.dtype for n in network.graph.nodes if isinstance(t := n.meta.get("val"), Tensor)}
        rounding = tolerance(dtypes if self.options.dtype is None else {*dtypes, self.options.dtype})
        try:
            program = self._compile(network, tensors)
            with _no_autocast() if torch._C._is_any_autocast_enabled() else nullcontext():
                results = program.settle(tensors, recording.tensors, network.results)
        except Exception as error:
            if _raises:
                raise
            self._failed(key, f"{type(error).__name__} while a plan was made: {error}", last=True)
            return recording.result
        reason = difference(results, recording.tensors, rounding) if self.options.check else ""
        reason = reason or self._side_effect(before, args, kwargs)
        if reason:
            self._failed(key, f"the plan disagrees with the model: {reason}", last=True)
            return recording.result
        self._watch(network.attributes.values())
        self._keep(key, Captured(program, recording.build, checks=int(self.options.check), rounding=rounding))
        return recording.build(results)

    def _compile(self, network: Any, tensors: Sequence[Tensor]) -> Program:
        adapt(network)
        network.drop_unused()
        for rewrite in PASSES:
            rewrite(network)
        if self.options.dtype is torch.bfloat16:
            to_bfloat16(network)
        if self.options.finish is not None:
            self.options.finish(network)
        if current_backend() not in ("auto", "cpu") or any(not t.is_cpu for t in tensors):
            fuse_conv_pool(network)
        network.drop_unused()
        network.graph.lint()
        options = self.options
        return Program(network, tensors, self._constants, self._arenas, options.prepack, options.batch_invariant)

    def _checked_call(self, key: Hashable, captured: Captured, tensors: Any, args: Any, kwargs: Any) -> Any:
        """Another call beside the given model: whether it depends on more than its arguments, such as time."""
        captured.checks -= 1
        if captured.program is None or captured.build is None:
            return self._eager(args, kwargs)
        before = _Before(tensors, args, kwargs, self._state)
        result = self._eager(args, kwargs)
        packing.release(self.given)  # what its own layers packed: the plan holds its weights in its own forms
        found: list[Tensor] = []
        with suppress(structure.Opaque):
            structure.builder(result, lambda t: found.append(t) or 0)  # type: ignore[func-returns-value]
        reason = self._side_effect(before, args, kwargs)
        if not reason:
            results = self._run(captured.program, tensors)
            same = len(found) == len(results)
            reason = (
                difference(results, found, captured.rounding)
                if same
                else f"{len(found)} tensors instead of {len(results)}"
            )
            if not reason:
                return captured.build(results)
        self._failed(key, f"another call gave something else: {reason}", last=True)
        return result

    def _reason_against(self, tensors: list[Tensor]) -> str:
        held = state.tensor_names(self.given)
        if state.has_global_hooks():
            return "hooks of all modules are registered"
        hooked = state.modules_with_hooks(self.given)
        if hooked:
            return f"{hooked[0][0]} has hooks"
        if any(id(t) in held for t in tensors):
            return "an argument is a tensor of the model"
        return ""

    def _side_effect(self, before: _Before, args: Any, kwargs: Any) -> str:
        """What a call left behind beside its result, in words."""
        assert self._state is not None
        if not self._state.holds():
            return f"forward changes {self._state.changes() or 'its state'}"
        return before.changes(args, kwargs)

    def _give_up(self, key: Hashable, reason: str, args: Any, kwargs: Any) -> Any:
        self._failed(key, reason, last=True)
        return self._eager(args, kwargs)

    def _failed(self, key: Hashable, reason: str, last: bool = False) -> None:
        assert self._state is not None
        self._failures[key] = self._failures.get(key, 0) + 1
        if not self._state.holds():
            failures = self._failures
            self._state = state.Snapshot(self.given)
            self._forget()
            self._failures = failures
            if self._failures[key] < self.ATTEMPTS and not last:
                return
        self._keep(key, Captured(None, None, reason))
        if not self._warned:
            self._warned = True
            name = type(self.given).__name__
            warnings.warn(f"fastcnn.optimize: PyTorch runs {name} as it is: {reason}", stacklevel=5)

    def _keep(self, key: Hashable, captured: Captured) -> None:
        while len(self._captured) >= self.MAX_PROGRAMS:
            self._captured.popitem(last=False)
        self._captured[key] = captured

    # ---- for people ----------------------------------------------------------------------------------------

    def program(self, *args: Any, **kwargs: Any) -> Program | None:
        """The program for a call like this; None where the given model runs it."""
        return self._captured_for(args, kwargs)[0]

    def _captured_for(self, args: Any, kwargs: Any) -> tuple[Program | None, str]:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(self.ATTEMPTS + 1):
                self(args, kwargs)
                try:
                    captured = self._captured.get(self._key(args, kwargs, []))
                except (structure.Opaque, TypeError) as error:
                    return None, f"an argument holds an object of type {error}"
                if captured is not None:
                    return captured.program, captured.reason
        return None, "something observes or transforms the call, or the model changes on each"

    def explain(self, args: Any, kwargs: Any) -> Report:
        if not args and not kwargs:
            return Report([], "call explain with the arguments of a call: plans are made for their shapes")
        program, reason = self._captured_for(args, kwargs)
        return Report([], f"PyTorch runs the network: {reason}") if program is None else Report(program.rows)


class _Before:
    """What is compared around a call."""

    def __init__(self, tensors: Sequence[Tensor], args: Any, kwargs: Any, held: Any) -> None:
        self._weights, self._inputs = Fingerprints(held.tensors()), Fingerprints(tensors)
        self._form = structure.flatten((args, kwargs), [])
        self._devices = {t.device for t in tensors if t.is_cuda}
        self._random = self._random_state()

    def _random_state(self) -> list[Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]

    def changes(self, args: Any, kwargs: Any) -> str:
        if self._weights.changed():
            return "forward writes to a weight or buffer"
        if self._inputs.changed() or structure.flatten((args, kwargs), []) != self._form:
            return "forward writes to an argument"
        same = all(map(torch.equal, self._random, self._random_state()))
        return "" if same else "forward draws random numbers"


_raises = False  # whether an error while a plan is made is raised: in tests


@contextmanager
def _no_autocast() -> Iterator[None]:
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode for a while: it was given in training mode, to be run in evaluation mode."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _differentiable(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the tensors that were made in inference mode: autograd keeps no such tensor."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.clone() for name, tensor in named if tensor.is_inference()}


def _observed() -> bool:
    """Whether something traces, transforms, differentiates or watches what happens."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def _signature(args: Any, kwargs: Any, tensors: list[Tensor]) -> Hashable:
    """What a plan is made for; the tensors among the arguments are appended. Raises Opaque."""
    form: Hashable = None
    if len(args) == 1 and not kwargs and type(args[0]) is Tensor:  # most calls
        tensors.append(args[0])
    else:
        form = structure.flatten(args, tensors), structure.flatten(kwargs, tensors)
    if len(tensors) > 1:
        first: dict[int, int] = {}
        form = form, tuple([first.setdefault(id(t), i) for i, t in enumerate(tensors)])
    autocast = _autocast() if torch._C._is_any_autocast_enabled() else None
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
    key = recall.key(tuple(tensors), (form, autocast, modes), None, None)
    if key is None:
        described = tuple(map(_described, tensors))
        return described, form, autocast, modes, current_backend(), torch.get_num_threads()
    return key


def _autocast() -> Hashable:
    return tuple((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda"))


def _described(t: Tensor) -> Hashable:
    if t.layout is not torch.strided or not (t.is_cpu or t.is_cuda) or t.is_neg() or t.is_conj() or t._is_zerotensor():
        raise structure.Opaque(f"{t.layout} tensor on {t.device}")
    return t.shape, t.stride(), t.dtype, t.device
