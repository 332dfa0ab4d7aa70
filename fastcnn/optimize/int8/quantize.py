"""`fastcnn.quantize`: post-training quantisation to 8 bits, from one layer's integers to the next's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastcnn.core.explain import explain
from fastcnn.optimize import structure
from fastcnn.optimize.constants import Constants
from fastcnn.optimize.int8 import observe
from fastcnn.optimize.int8.rewrite import CLAMPS, Rewrite, Scales, is_layer, quantised_nodes
from fastcnn.optimize.int8.scale import METHODS, Bounds, Scale, scale_between
from fastcnn.optimize.module import Options, optimized
from fastcnn.optimize.network import Network, Node

__all__ = ["Quantized", "quantize"]


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer of a quantised network, and what it loses when it alone is quantised.

    error: root mean square of the difference over that of the layer's float32 output.
    kept: why it is left in float32; empty where it is quantised.
    """

    name: str
    error: float
    kept: str = ""


class _Pass:
    """Rewrites the network of each signature; calibrates with the first."""

    def __init__(self, batches: Sequence[Sequence[Tensor]], method: str) -> None:
        self._batches, self._method = batches, method
        self._form: Any = None  # of the network that was calibrated
        self._bounds: list[Bounds | None] = []  # by the nodes' places in it
        self._before: list[Bounds | None] = []  # of layers before their activation
        self.layers: list[Layer] = []
        self._places: list[int] = []  # of the layers
        self.kept: dict[int, str] = {}  # by the layers' numbers
        self.failure: ValueError | None = None  # of calibration

    def __call__(self, network: Network) -> None:
        nodes = list(network.graph.nodes)
        form = _form_of(nodes)
        if self._form is None:
            try:
                self._calibrate(network, nodes)
            except ValueError as error:
                self.failure = error
                return
            self._form = form
        if form != self._form:
            warnings.warn(
                "fastcnn.quantize: for inputs of this shape the model computes in another order than in calibration; "
                "it runs in float32. Quantise it with batches of this shape.",
                stacklevel=2,
            )
            return
        kept = {nodes[self._places[i]] for i in self.kept}
        quantised = quantised_nodes(network, kept)
        Rewrite(network, quantised, self._scales(nodes, quantised), self._scale_before(nodes)).run()

    def _scales(self, nodes: list[Node], quantised: set[Node]) -> Scales:
        places = {node: place for place, node in enumerate(nodes)}

        def bounds(node: Node) -> Bounds:
            found = self._bounds[places[node]]
            assert found is not None, f"{node} was not observed"
            return found

        return Scales(quantised, bounds)

    def _scale_before(self, nodes: list[Node]) -> Callable[[Node], Scale]:
        return lambda node: scale_between(*(self._before[nodes.index(node)] or (0.0, 0.0)))

    def _calibrate(self, network: Network, nodes: list[Node]) -> None:
        constants, choose = Constants(), METHODS[self._method]
        layers = [node for node in nodes if is_layer(node)]
        inner = {node for node in layers if node.kwargs["activation"] not in CLAMPS}
        seen, before = observe.ranges(network, constants, self._batches, inner)
        self._bounds = [choose(seen[node]) if node in seen else None for node in nodes]
        self._before = [choose(before[node]) if node in before else None for node in nodes]
        self._places = [nodes.index(node) for node in layers]
        scale_of = self._scales(nodes, quantised_nodes(network, ()))
        errors = observe.layer_errors(network, constants, self._batches, set(layers), scale_of)
        self.layers = [Layer(" + ".join(network.labels(n)) or n.name, errors[n]) for n in layers]


def _form_of(nodes: list[Node]) -> Any:
    """What a network computes, without its shapes."""
    places = {node: i for i, node in enumerate(nodes)}
    return [(node.op, node.target, [places[read] for read in node.all_input_nodes]) for node in nodes]


class Quantized(nn.Module):
    """A network in 8 bits: runs the given model's plans in inference, whatever the grad mode.

    layers: of each convolution and linear layer what it loses, and whether it was left in float32.
    error: |y - model(x)| / |model(x)| over the calibration batches, root mean squares.
    """

    def __init__(self, module: nn.Module, layers: list[Layer], error: float) -> None:
        super().__init__()
        self.module, self.layers, self.error = module, layers, error
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> Quantized:
        if mode:
            raise RuntimeError("a quantised network is for inference; train the given model and quantise it again")
        return self

    def __fastcnn_explain__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return explain(self.module, *args, **kwargs)

    def report(self) -> str:
        """The layers, those that lose most first."""
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines = [f"{'layer':<{width}}    error  runs in"]
        for layer in sorted(self.layers, key=lambda layer: -layer.error):
            kind = f"float32 ({layer.kept})" if layer.kept else "int8"
            lines.append(f"{layer.name:<{width}}  {layer.error:7.2%}  {kind}")
        return "\n".join([*lines, f"error of the network's output over the batches: {self.error:.2%}"])


def quantize(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    method: str = "least_squares",
    first: bool = True,
    last: bool = True,
    keep: Iterable[str] = (),
    max_error: float | None = None,
    report: bool = False,
) -> Quantized:
    """The model with its convolutions and linear layers computed in 8 bits, for inference on a CPU.

    A byte u stands for scale * (u - zero): one scale a tensor of activations, one a channel of weights (int8, zero 0).
    Batch normalisation is folded first; sums are exact in 32 bits; additions, concatenations and pools between layers
    compute on the bytes. What has no operator on bytes (local response normalisation, softmax) computes in float32.

    Args:
        model: as for `optimize`; it is not changed. Changed weights are quantised again; activations' scales stay.
        batches: inputs that look like those to come, a tensor or a tuple of arguments each, all of one shape; about a
            hundred images are enough.
        method: how a scale is chosen from the values seen: "min_max", "percentile" (all but 0.01 % at each end) or
            "least_squares" (the least squared error).
        first, last: whether the first and the last layer are quantised too.
        keep: names of layers, as in model.named_modules(), to be left in float32.
        max_error: the largest |y - model(x)| / |model(x)| over the batches (root mean squares): as many of the layers
            that lose most stay in float32 as it takes. Where even the whole network in float32 misses it, all do.
        report: print each layer's error and where it runs.

    Raises TypeError or ValueError for a wrong argument, batches of several shapes, NaN or infinity in a batch, and a
    model that `optimize` leaves to PyTorch.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"quantize: model is {type(model).__name__}; a torch.nn.Module is needed")
    if method not in METHODS:
        raise ValueError(f"quantize: method is {method!r}, must be one of {', '.join(METHODS)}")
    if max_error is not None and not max_error >= 0:
        raise ValueError(f"quantize: max_error is {max_error}, must be at least 0")
    names = tuple(keep)
    unknown = set(names) - {name for name, _ in model.named_modules()}
    if unknown:
        raise ValueError(f"quantize: keep names {sorted(unknown)}, which are no modules of the model")
    calls = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    tensors = _tensors_of(calls)
    return _Search(model, calls, _Pass(tensors, method)).run(first, last, names, max_error, report)


def _tensors_of(calls: list[tuple[Any, ...]]) -> list[list[Tensor]]:
    if not calls:
        raise ValueError("quantize: no batches; at least one is needed")
    found: list[list[Tensor]] = []
    for i, call in enumerate(calls):
        tensors: list[Tensor] = []
        try:
            structure.flatten((call, {}), tensors)
        except structure.Opaque as error:
            raise TypeError(f"quantize: batch {i} holds an object of type {error}; tensors are needed") from None
        if not tensors:
            raise TypeError(f"quantize: batch {i} holds no tensor")
        if any(not t.is_cpu for t in tensors):
            raise ValueError(f"quantize: batch {i} is not on the CPU")
        shapes = [tuple(t.shape) for t in tensors]
        if found and shapes != [tuple(t.shape) for t in found[0]]:
            raise ValueError(f"quantize: batch {i} has shapes {shapes}, batch 0 {[tuple(t.shape) for t in found[0]]}")
        found.append(tensors)
    return found


class _Search:
    """Finds which layers are left in float32."""

    def __init__(self, model: nn.Module, calls: list[tuple[Any, ...]], rewrite: _Pass) -> None:
        self._model, self._calls, self._pass = model, calls, rewrite
        options = Options(check=False)
        with torch.no_grad():
            plain = optimized(model, options, as_eval=model.training)
            self._wanted = [_outputs(plain(*call)) for call in calls]
        self._make()

    def _make(self) -> None:
        """A module with the layers of now; the pass runs in its first call."""
        options = Options(check=False, finish=self._pass)
        self.module = optimized(self._model, options, as_eval=self._model.training)

    def _error(self) -> float:
        lost = size = 0.0
        with torch.no_grad():
            for call, wanted in zip(self._calls, self._wanted, strict=True):
                for y, exact in zip(_outputs(self.module(*call)), wanted, strict=True):
                    lost += float((y - exact).double().square().sum())
                    size += float(exact.double().square().sum())
        return (lost / size) ** 0.5 if size else 0.0

    def run(self, first: bool, last: bool, names: Sequence[str], max_error: float | None, report: bool) -> Quantized:
        error = self._error()  # calibrates
        if self._pass.failure is not None:
            raise self._pass.failure
        layers = self._pass.layers
        with torch.no_grad():
            unplanned = self.module._fastcnn.program(*self._calls[0]) is None  # type: ignore[union-attr, operator]
        if unplanned or not layers:
            reason = explain(self.module, *self._calls[0])
            raise ValueError(f"quantize: no layer of {type(self._model).__name__} can be quantised:\n{reason}")
        fixed = {0: "the first layer"} if not first else {}
        if not last:
            fixed[len(layers) - 1] = "the last layer"
        fixed |= {i: "asked for" for i, layer in enumerate(layers) if set(layer.name.split(" + ")) & set(names)}
        if fixed:
            error = self._try(fixed)
        if max_error is not None and error > max_error:
            error = self._keep_worst(fixed, max_error)
        kept = self._pass.kept
        found = Quantized(
            self.module, [Layer(layer.name, layer.error, kept.get(i, "")) for i, layer in enumerate(layers)], error
        )
        if report:
            print(found.report())
        return found

    def _try(self, kept: dict[int, str]) -> float:
        self._pass.kept = kept
        self._make()
        return self._error()

    def _keep_worst(self, fixed: dict[int, str], max_error: float) -> float:
        """The fewest of the worst layers in float32 that give the error, found by bisection."""
        layers = self._pass.layers
        worst = sorted((i for i in range(len(layers)) if i not in fixed), key=lambda i: -layers[i].error)

        def kept(count: int) -> dict[int, str]:
            return fixed | dict.fromkeys(worst[:count], "for the error asked")

        low, high = 0, len(worst)
        while high - low > 1:
            middle = (low + high) // 2
            if self._try(kept(middle)) <= max_error:
                high = middle
            else:
                low = middle
        return self._try(kept(high))


def _outputs(result: Any) -> list[Tensor]:
    found: list[Tensor] = []
    structure.flatten((result,), found)
    return [t for t in found if t.is_floating_point()]
