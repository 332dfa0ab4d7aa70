"""How a kernel is chosen: ordered candidates, one predicate that rejects and explains, a remembered choice.

An operator (fastcnn/ops/<op>/__init__.py) owns a list of candidates, best first, the PyTorch reference last.
The first candidate whose `supports(problem)` gives no reason against is taken and remembered for the problem.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastcnn import native

BACKENDS = ("auto", "cuda", "triton", "cpu", "reference")

Runner = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One kernel that may run an operator.

    supports: the reason, in words, why the kernel cannot or should not take the problem; None if it takes it.
    prepare: the callable that runs the problem on its tensors; called once a problem.
    note: what `explain` adds about the kernel as it would run the problem: its configuration, an estimate.
    """

    backend: str
    name: str
    supports: Callable[[Any], str | None]
    prepare: Callable[[Any], Runner]
    dtypes: tuple[str, ...] = ("float32",)
    architectures: tuple[str, ...] = ()
    note: Callable[[Any], str] | None = None


class Unsupported(ValueError):
    """No kernel of the demanded backend takes the problem; the message lists each one's reason."""


def _known_backend(name: object, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}: unknown backend {name!r}; allowed: {', '.join(BACKENDS)}")
    return str(name)


_global_backend = [_known_backend(os.environ.get("FASTCNN_BACKEND", "auto"), "FASTCNN_BACKEND")]
_local_backend: ContextVar[str | None] = ContextVar("fastcnn_backend", default=None)


def current_backend() -> str:
    """The backend in force here: that of the innermost `with use_backend(...)`, else the global one."""
    return _local_backend.get() or _global_backend[0]


class use_backend:
    """Demands one backend: `use_backend("cpu")` for the whole process, `with use_backend("cpu"):` for a block.

    name: "auto" (the best kernel that applies), "cuda", "triton", "cpu" or "reference" (PyTorch's own
    operators). A demanded backend that cannot take a problem raises `Unsupported` with the reason. The
    environment variable FASTCNN_BACKEND sets the initial value. The block form is local to the thread (or
    asyncio task) and wins over the global setting.
    """

    def __init__(self, name: str) -> None:
        self._name = _known_backend(name, "use_backend")
        self._previous, _global_backend[0] = _global_backend[0], self._name
        self._tokens: list[Token[str | None]] = []

    def __enter__(self) -> use_backend:
        _global_backend[0] = self._previous
        self._tokens.append(_local_backend.set(self._name))
        return self

    def __exit__(self, *exception: object) -> None:
        _local_backend.reset(self._tokens.pop())


@dataclass(frozen=True)
class Choice:
    """One operator call as `explain` saw it: the problem, each candidate's reason, the candidate taken."""

    operator: str
    problem: Any
    reasons: tuple[tuple[Candidate, str | None], ...]
    taken: Candidate | None


@dataclass
class Explanation:
    """What `explain` found; printing it shows a table."""

    choices: list[Choice] = field(default_factory=list)

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        console = Console(width=140)
        with console.capture() as capture:
            for choice in self.choices:
                table = Table(title=f"{choice.operator}  {choice.problem.summary()}", title_justify="left")
                for column in ("", "backend", "kernel", "why"):
                    table.add_column(column)
                for candidate, reason in choice.reasons:
                    taken = candidate is choice.taken
                    why = "taken" if taken else reason or "applies, but a candidate above it was taken"
                    if candidate.note is not None and reason is None:
                        why += f"; {candidate.note(choice.problem)}"
                    table.add_row("->" if taken else "", candidate.backend, candidate.name, why)
                console.print(table)
        return capture.get().rstrip()

    __repr__ = __str__


_recorders: list[Explanation] = []


class Selector:
    """The candidates for one kind of problem, and which of them was taken for each problem so far.

    normalise(tensors, params) -> params   validates the scalar arguments and brings them into one form
    infer(tensors, params) -> problem      validates the tensors; the problem knows the output's shape
    definition(*tensors, *params)          the result in differentiable PyTorch operators
    setting()                              what a choice depends on that no argument shows, such as whether TF32 is
                                           allowed; None if there is no such thing
    """

    # A remembered choice costs about 2 KB; shapes beyond the bound are chosen anew, never refused.
    MAX_REMEMBERED = 4096

    def __init__(
        self,
        name: str,
        *,
        normalise: Callable[[Sequence[Any], Sequence[Any]], tuple[Any, ...]],
        infer: Callable[[Sequence[Any], tuple[Any, ...]], Any],
        definition: Callable[..., Tensor],
        candidates: Iterable[Candidate],
        setting: Callable[[], Any] | None = None,
    ) -> None:
        self.name = name
        self.setting = setting
        self.normalise = normalise
        self.infer = infer
        self.definition = definition
        self.candidates = tuple(candidates)
        self._runners: dict[Any, Any] = {}
        SELECTORS[name] = self

    def _key(self, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...], out: Tensor | None) -> Any:
        """What a choice is remembered by; None where it cannot be, because not every tensor is a plain one."""
        described = _describe(tensors, out)
        if described is None:
            return None
        setting = None if self.setting is None else self.setting()
        return described, params, current_backend(), torch.get_num_threads(), setting

    def _is_known(self, key: Any) -> bool:
        """Whether a choice is remembered; `explain` wants every choice made anew."""
        return key in self._runners and not _recorders

    def _remember(self, key: Any, runner: Any) -> None:
        if len(self._runners) >= self.MAX_REMEMBERED:
            self._runners.clear()
        self._runners[key] = runner

    def forget(self) -> None:
        """Forgets every remembered choice: for a setting that the choice depends on."""
        self._runners.clear()

    def choose(self, problem: Any) -> Choice:
        """The first candidate that takes the problem, within the backend in force, and the reasons against others."""
        demanded = current_backend()
        reasons: list[tuple[Candidate, str | None]] = []
        taken: Candidate | None = None
        for candidate in self.candidates:
            if demanded not in ("auto", candidate.backend):
                reason: str | None = f"backend {demanded!r} was demanded"
            elif taken is not None and not _recorders:
                break
            else:
                reason = candidate.supports(problem)
            reasons.append((candidate, reason))
            if taken is None and reason is None:
                taken = candidate
        choice = Choice(self.name, problem, tuple(reasons), taken)
        for recorder in _recorders:
            recorder.choices.append(choice)
        return choice


class Operator(Selector):
    """One operator: its contract, its entry in torch.library, its candidates and its remembered choices.

    backward(ctx, grad)                    the gradient, in differentiable PyTorch operators
    saved(tensors, output)                 the tensors that `backward` needs
    unbatched                              which of (*tensors, out) are (C, H, W) where the first is
    """

    def __init__(
        self,
        name: str,
        schema: str,
        *,
        backward: Callable[..., Any],
        saved: Callable[[Sequence[Any], Tensor], Sequence[Any]],
        tensor_count: int,
        unbatched: tuple[int, ...] = (),
        **selector: Any,
    ) -> None:
        super().__init__(name, **selector)
        self.unbatched = unbatched
        self._register(schema, backward, saved, tensor_count)
        OPERATORS[name] = self

    # ---- the three doors -------------------------------------------------------------------------------

    def __call__(
        self, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...], out: Tensor | None = None
    ) -> Tensor:
        """Runs the operator. `params` are as the user gave them.

        A call like one before, in plain inference, goes to its kernel straight away. What its key has fixed is not
        asked again, so a wrong argument is only noticed as one that has no key.
        """
        if not _dynamo_compiles():
            output = _recall(self._runners, tensors, params, out, self.setting)
            if output is not None:
                return output
            if not (tensors and all(t is None or _is_dense(t) for t in (*tensors, out))):
                self.infer((*tensors, out), self.normalise(tensors, _hashable(params)))  # raises
        if self.unbatched and isinstance(tensors[0], Tensor) and tensors[0].dim() != 4:
            return self._without_batch(tensors, params, out)
        params = _hashable(params)
        # Skipping torch.library keeps a small network from being all overhead: an operator of torch.library written
        # in Python costs about ten times a call of the extension.
        key = None if _dynamo_compiles() or _profiler_enabled() else self._key(tensors, params, out)
        if key is not None and is_inference(tensors):
            return self._runner(key, tensors, params, out)(*tensors, out)
        canonical = self.normalise(tensors, params)
        if (
            out is not None
            and torch.is_grad_enabled()
            and any(t is not None and t.requires_grad for t in (*tensors, out))
        ):
            raise ValueError(f"{self.name}: out= does not support automatic differentiation; use torch.no_grad()")
        if not torch.compiler.is_compiling():
            self.infer((*tensors, out), canonical)
        # torch.compile follows neither complex numbers nor forward-mode gradients, and it does torch.func itself.
        if not torch.compiler.is_compiling() and _needs_definition(tensors):
            if current_backend() not in ("auto", "reference"):
                raise Unsupported(
                    f"{self.name}: backend {current_backend()!r} was demanded, but complex numbers and torch.func "
                    "transforms are computed by the reference only"
                )
            result = call_definition(self.name, self.definition, tensors, canonical)
        else:
            result = self._torch_op(*self._flatten(tensors), *canonical)
        return result if out is None else out.copy_(result)

    def run(self, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...], out: Tensor | None = None) -> Tensor:
        """Runs the operator by the chosen kernel, without autograd; a gradient may have been asked for above."""
        from fastcnn.ops.packing import changing  # itself made of operators

        return changing.run(self._runner(self._key(tensors, params, out), tensors, params, out), *tensors, out)

    def _runner(
        self, key: Any, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...], out: Tensor | None
    ) -> Runner:
        """The remembered choice, or one made now; `explain` wants every choice made anew."""
        try:
            runner = self._runners.get(key)
        except TypeError:  # an argument of no use, such as a dict, cannot be looked up: say which it is
            self.normalise(tensors, params)
            raise
        if runner is None or _recorders:
            problem = self.infer((*tensors, out), self.normalise(tensors, params))
            runner = self.select(problem)
            if key is not None:
                self._remember(key, runner)
        return runner

    def _without_batch(self, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...], out: Tensor | None) -> Tensor:
        from fastcnn.ops import checks  # itself made of operators

        images: list[Any] = [*tensors, out]
        checks.rank(self.name, "input", images[0], (3, 4))
        for i in self.unbatched:
            images[i] = None if images[i] is None else images[i].unsqueeze(0)
        output = self(tuple(images[:-1]), params, images[-1])
        return output.squeeze(0) if out is None else out

    def select(self, problem: Any) -> Runner:
        """The runner of the first candidate that takes the problem, within the backend in force."""
        choice = self.choose(problem)
        if choice.taken is None:
            demanded = current_backend()
            listed = (
                "".join(f"\n  {c.backend} {c.name}: {r}" for c, r in choice.reasons if c.backend == demanded)
                or f"\n  it has no kernel for {self.name}"
            )
            raise Unsupported(
                f"{self.name}: backend {demanded!r} was demanded but cannot take {problem.summary()}:{listed}"
            )
        return choice.taken.prepare(problem)

    # ---- torch.library ---------------------------------------------------------------------------------

    def _register(self, schema: str, backward: Any, saved: Any, tensor_count: int) -> None:
        _LIBRARY.define(schema)
        qualified = f"fastcnn::{self.name}"
        takes_list = schema.split("(", 1)[1].startswith("Tensor[]")

        def split(args: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            if takes_list:
                return tuple(args[0]), _hashable(args[1:])
            return tuple(args[:tensor_count]), _hashable(args[tensor_count:])

        self._flatten = (lambda tensors: (list(tensors),)) if takes_list else (lambda tensors: tuple(tensors))

        def implementation(*args: Any) -> Tensor:
            tensors, params = split(args)
            return self.run(tensors, params)

        def fake(*args: Any) -> Tensor:
            tensors, params = split(args)
            problem = self.infer((*tensors, None), self.normalise(tensors, params))
            return problem.empty_output(tensors[0])

        def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
            tensors, params = split(inputs)
            ctx.params = params
            ctx.save_for_backward(*saved(tensors, output))

        def gradient(ctx: Any, grad: Tensor) -> Any:
            grads = backward(ctx, grad, *ctx.params)
            if takes_list:
                return (list(grads), *([None] * len(ctx.params)))
            return (*grads, *([None] * len(ctx.params)))

        torch.library.impl(qualified, "CompositeExplicitAutograd", implementation, lib=_LIBRARY)
        torch.library.register_fake(qualified, fake, lib=_LIBRARY)
        torch.library.register_autograd(qualified, gradient, setup_context=setup_context, lib=_LIBRARY)
        self._torch_op = getattr(torch.ops.fastcnn, self.name).default


SELECTORS: dict[str, Selector] = {}  # the operators, and those of fastcnn/ops/fused.py
OPERATORS: dict[str, Operator] = {}
_LIBRARY = torch.library.Library("fastcnn", "DEF")


def call_definition(
    op: str, definition: Callable[..., Tensor], tensors: Sequence[Tensor | None], params: Sequence[Any]
) -> Tensor:
    """The definition's result; a dtype that PyTorch does not compute is a TypeError."""
    try:
        return definition(*tensors, *params)
    except (RuntimeError, NotImplementedError) as error:
        if not isinstance(error, NotImplementedError) and not re.search("not (implemented|supported) for", str(error)):
            raise
        first = tensors[0]
        dtype = None if first is None else first.dtype
        raise TypeError(f"{op}: {dtype} is not supported by PyTorch's operator: {error}") from None


def _hashable(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(tuple(v) if isinstance(v, list) else v for v in values)


_dynamo_compiles = torch.compiler.is_dynamo_compiling
_profiler_enabled, _transforms = torch.autograd._profiler_enabled, torch._C._functorch.peek_interpreter_stack
# Of each, whether something takes part that wants to see the operators: a mode, a tracer, a transform of torch.func.
_OBSERVERS = torch._C._len_torch_dispatch_stack, torch._C._is_tracing, _transforms


def _is_dense(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout is torch.strided


def is_inference(tensors: Sequence[Tensor | None]) -> bool:
    """Whether the result alone is wanted: no gradient, transform, mode or tracer takes part."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return False
    return forward_ad._current_level < 0 and not any(observes() for observes in _OBSERVERS)


def _needs_definition(tensors: Sequence[Tensor | None]) -> bool:
    """Whether only the differentiable definition serves: complex numbers, torch.func, forward-mode gradients."""
    first = tensors[0]
    return _transforms() is not None or forward_ad._current_level >= 0 or (first is not None and first.is_complex())


def _describe_in_python(tensors: tuple[Tensor | None, ...], out: Tensor | None) -> Any:
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
_describe, _recall = _describe_in_python, lambda *call: None
ATTACHED: bool = native.extension is not None and native.extension.attach(
    Tensor, torch.nn.Parameter,
    (_profiler_enabled, *_OBSERVERS), torch.is_grad_enabled, forward_ad,
    _recorders, _local_backend, _global_backend, torch.get_num_threads,
)  # fmt: skip
if ATTACHED:
    _describe, _recall = native.extension.describe, native.extension.recall  # type: ignore[union-attr]


def explain(fn_or_module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs a function or module once and returns, for each fastcnn operator it calls, why its kernel was taken.

    Returns an `Explanation`: printing it shows, a table an operator call, every candidate and the reason it was
    or was not taken; `.choices` holds the same as data. Gradients are not recorded during the run.
    """
    own = getattr(fn_or_module, "__fastcnn_explain__", None)
    if own is not None:
        return own(*args, **kwargs)
    if not callable(fn_or_module):
        raise TypeError(f"explain: fn_or_module is {type(fn_or_module).__name__}; a function or module is needed")
    recorder = Explanation()
    _recorders.append(recorder)
    try:
        with torch.no_grad():
            fn_or_module(*args, **kwargs)
    finally:
        _recorders.remove(recorder)
    return recorder
