"""An operator: its contract, its entry in torch.library, its candidates and its remembered choices."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastcnn.core import checks
from fastcnn.core.backend import current_backend
from fastcnn.core.candidate import Candidate, P, Runner, Unsupported
from fastcnn.core.cases import Case
from fastcnn.core.explain import recorders
from fastcnn.core.packing import changing
from fastcnn.core.recall import (
    dynamo_compiles,
    hashable,
    is_dense,
    is_inference,
    needs_definition,
    observed,
    profiler_enabled,
    recall,
)
from fastcnn.core.recorded import Recorded
from fastcnn.core.selector import Selector


class Operator(Selector[P]):
    """One operator: its contract, its entry in torch.library, its candidates and its remembered choices.

    backward(ctx, grad, *params)           the gradient; where gradients are enabled, in differentiable operators
    saved(tensors, output, params)         the tensors that `backward` needs
    training(tensors, params)              (output, what to save in the place of `saved`) by a kernel that remembers
                                           more than the output, for a gradient in eager mode; None: there is none
    unbatched                              which of (*tensors, out) are (C, H, W) where the first is
    """

    def __init__(
        self,
        name: str,
        schema: str,
        *,
        normalise: Callable[[Sequence[Any], Sequence[Any]], tuple[Any, ...]],
        infer: Callable[[Sequence[Any], tuple[Any, ...]], P],
        definition: Callable[..., Tensor],
        candidates: Iterable[Candidate[P]],
        backward: Callable[..., Any],
        saved: Callable[[Sequence[Any], Tensor, tuple[Any, ...]], Sequence[Any]],
        tensor_count: int,
        training: Callable[[Sequence[Any], tuple[Any, ...]], tuple[Tensor, Sequence[Any]] | None] | None = None,
        unbatched: tuple[int, ...] = (),
        setting: Callable[[], Any] | None = None,
        cases: Sequence[Case] = (),
        races: Sequence[Case] = (),
    ) -> None:
        super().__init__(
            name, normalise=normalise, infer=infer, definition=definition, candidates=candidates, setting=setting,
            cases=cases, races=races,
        )  # fmt: skip
        self.unbatched = unbatched
        self.backward, self.saved, self.training = backward, saved, training
        self._canonical: dict[Any, tuple[Any, ...]] = {}
        self._register(schema, tensor_count)
        OPERATORS[name] = self

    # ---- the three doors -------------------------------------------------------------------------------

    def __call__(
        self, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...], out: Tensor | None = None
    ) -> Tensor:
        """Runs the operator. `params` are as the user gave them.

        A call like one before, in plain inference, goes to its kernel straight away. What its key has fixed is not
        asked again, so a wrong argument is only noticed as one that has no key.
        """
        if not dynamo_compiles():
            output = recall(self._runners, tensors, params, out, self.setting)
            if output is not None:
                return output
            if not (tensors and all(t is None or is_dense(t) for t in (*tensors, out))):
                self.infer((*tensors, out), self.normalise(tensors, hashable(params)))  # raises
        if self.unbatched and isinstance(tensors[0], Tensor) and tensors[0].dim() != 4:
            return self._without_batch(tensors, params, out)
        params = hashable(params)
        # Skipping torch.library keeps a small network from being all overhead: an operator of torch.library written
        # in Python costs about ten times a call of the extension.
        key = None if dynamo_compiles() or profiler_enabled() else self._key(tensors, params, out)
        if key is not None and is_inference(tensors):
            return self._runner(key, tensors, params, out)(*tensors, out)
        if key is not None and out is None and not observed():
            return self._record(key, tensors, params)
        result = self._observed(tensors, self.normalise(tensors, params), out)
        return result if out is None else out.copy_(result)

    def _observed(self, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...], out: Tensor | None) -> Tensor:
        """The result where more than the result is wanted: through torch.library, or by the definition."""
        if (
            out is not None
            and torch.is_grad_enabled()
            and any(t is not None and t.requires_grad for t in (*tensors, out))
        ):
            raise ValueError(f"{self.name}: out= does not support automatic differentiation; use torch.no_grad()")
        # torch.compile follows neither complex numbers nor forward-mode gradients, and it does torch.func itself.
        if not torch.compiler.is_compiling():
            self.infer((*tensors, out), params)
            if needs_definition(tensors):
                return self._defined(tensors, params)
        return self._torch_op(*self._flatten(tensors), *params)

    def _defined(self, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...]) -> Tensor:
        if current_backend() not in ("auto", "reference"):
            raise Unsupported(
                f"{self.name}: backend {current_backend()!r} was demanded, but complex numbers and torch.func "
                "transforms are computed by the reference only"
            )
        return call_definition(self.name, self.definition, tensors, params)

    def run(self, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...], out: Tensor | None = None) -> Tensor:
        """Runs the operator by the chosen kernel, without autograd; a gradient may have been asked for above."""
        return changing.run(self._runner(self._key(tensors, params, out), tensors, params, out), *tensors, out)

    def _record(self, key: Any, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...]) -> Tensor:
        """Runs the operator with its gradient recorded, round torch.library."""
        runner = self._runner(key, tensors, params, None)
        canonical = self._canonical.get(key)
        if canonical is None:
            if len(self._canonical) >= self.MAX_REMEMBERED:
                self._canonical.clear()
            canonical = self._canonical[key] = self.normalise(tensors, params)
        output: Tensor = Recorded.apply(*tensors, self, runner, canonical)  # type: ignore[no-untyped-call]
        return output

    def _runner(
        self, key: Any, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...], out: Tensor | None
    ) -> Runner:
        """The remembered choice, or one made now; `explain` wants every choice made anew."""
        try:
            runner = self._runners.get(key)
        except TypeError:  # an argument of no use, such as a dict, cannot be looked up: say which it is
            self.normalise(tensors, params)
            raise
        if runner is None or recorders:
            problem = self.infer((*tensors, out), self.normalise(tensors, params))
            runner = self.select(problem)
            if key is not None:
                self._remember(key, runner)
        return runner

    def _without_batch(self, tensors: tuple[Tensor | None, ...], params: tuple[Any, ...], out: Tensor | None) -> Tensor:
        images: list[Any] = [*tensors, out]
        checks.rank(self.name, "input", images[0], (3, 4))
        for i in self.unbatched:
            images[i] = None if images[i] is None else images[i].unsqueeze(0)
        output = self(tuple(images[:-1]), params, images[-1])
        return output.squeeze(0) if out is None else out

    def select(self, problem: P) -> Runner:
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

    def _register(self, schema: str, tensor_count: int) -> None:
        _LIBRARY.define(schema)
        qualified = f"fastcnn::{self.name}"
        takes_list = schema.split("(", 1)[1].startswith("Tensor[]")

        def split(args: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            if takes_list:
                return tuple(args[0]), hashable(args[1:])
            return tuple(args[:tensor_count]), hashable(args[tensor_count:])

        self._flatten: Callable[..., tuple[Any, ...]] = (
            (lambda tensors: (list(tensors),)) if takes_list else (lambda tensors: tuple(tensors))
        )

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
            ctx.save_for_backward(*self.saved(tensors, output, params))

        def gradient(ctx: Any, grad: Tensor) -> Any:
            grads = self.backward(ctx, grad, *ctx.params)
            if takes_list:
                return (list(grads), *([None] * len(ctx.params)))
            return (*grads, *([None] * len(ctx.params)))

        torch.library.impl(qualified, "CompositeExplicitAutograd", implementation, lib=_LIBRARY)
        torch.library.register_fake(qualified, fake, lib=_LIBRARY)
        torch.library.register_autograd(qualified, gradient, setup_context=setup_context, lib=_LIBRARY)
        self._torch_op: Callable[..., Tensor] = getattr(torch.ops.fastcnn, self.name).default


OPERATORS: dict[str, Operator[Any]] = {}
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
