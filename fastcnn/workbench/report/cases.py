"""What is timed: every operator at the layer shapes of the networks, the networks, and the cost of a call."""

from __future__ import annotations

import copy
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastcnn import functional, models
from fastcnn.workbench.report import classifiers
from fastcnn.workbench.report.plain import EAGER, plain

KINDS = ("network", "classifier", "op", "overhead")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Network:
    """A network as it is timed: its builder's name in fastcnn.models, its variant, its input."""

    builder: str
    variant: str | None = None
    input: tuple[int, int, int] = (3, 224, 224)

    def build(self) -> nn.Module:
        arguments: dict[str, Any] = {} if self.variant is None else {"variant": self.variant}
        if self.builder == "googlenet":
            arguments["aux_logits"] = False
        return getattr(models, self.builder)(**arguments).eval()


# The five networks first, in the form that every engine can run; then the papers' own forms, whose LRN,
# groups and RBF units PyTorch has only as several operators.
NETWORKS: dict[str, Network] = {
    "lenet5": Network("lenet5", "modern", (1, 32, 32)),
    "alexnet": Network("alexnet", "torchvision"),
    "vgg16": Network("vgg16"),
    "googlenet": Network("googlenet", "torchvision"),
    "resnet50": Network("resnet50"),
    "resnet18": Network("resnet18"),
    "lenet5_paper": Network("lenet5", "paper", (1, 32, 32)),
    "alexnet_paper": Network("alexnet", "paper"),
    "googlenet_paper": Network("googlenet", "paper"),
}
FIVE = ("lenet5", "alexnet", "vgg16", "googlenet", "resnet50")

# Which arguments of fastcnn.functional's functions grow with the batch; the other tensors are parameters.
_ACTIVATIONS = ("input", "other", "residual", "tensors")


@dataclass(frozen=True)
class Call:
    """One call of a function of fastcnn.functional: tensors by their shapes at batch 1, the rest by value."""

    function: str
    tensors: tuple[tuple[str, Any], ...]
    arguments: tuple[tuple[str, Any], ...]

    @property
    def shapes(self) -> dict[str, Any]:
        return dict(self.tensors)

    @property
    def label(self) -> str:
        """A name for people: conv2d 3x3 64->128 56x56 /2."""
        shapes, arguments = self.shapes, dict(self.arguments)
        first = shapes["tensors"][0] if "tensors" in shapes else shapes["input"]
        image = f"{first[2]}x{first[3]}" if len(first) == 4 else ""
        stride = _first(arguments.get("stride", 1))
        by = f"/{stride}" if stride not in (1, None) else ""
        if self.function == "conv2d":
            K, C, R, S = shapes["weight"]
            groups = arguments.get("groups", 1)
            parts = [f"{R}x{S}{by}", f"{C * groups}->{K}", image, f"groups {groups}" if groups > 1 else ""]
            parts.append("+ residual" if "residual" in shapes else "")
        elif self.function == "linear":
            parts = [f"{shapes['weight'][1]}->{shapes['weight'][0]}"]
        elif self.function == "rbf":
            parts = [f"{shapes['centers'][1]}->{shapes['centers'][0]}"]
        elif self.function == "concat":
            parts = ["+".join(str(shape[1]) for shape in shapes["tensors"]), image]
        elif "pool" in self.function:
            kernel = _first(arguments.get("kernel_size", arguments.get("output_size")))
            to = "to " if "adaptive" in self.function else ""
            parts = [f"{to}{kernel}x{kernel}{by}", str(first[1]), image]
            parts.append("padded" if _first(arguments.get("padding", 0)) else "")
        else:
            parts = [str(first[1]), image]
        activation = arguments.get("activation") or ""
        # ReLU after a convolution is the rule; what differs is named.
        parts.append("" if (self.function, activation) == ("conv2d", "relu") else activation)
        return " ".join(filter(None, [self.function, *map(str, parts)]))


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Case:
    """One thing to time. `label` names it among cases of its kind; `call` is set for an operator."""

    kind: str  # one of KINDS
    subject: str  # the operator or network
    label: str
    batch: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    image: int = 0  # the input's height and width, if not the network's own
    call: Call | None = None
    networks: tuple[tuple[str, int], ...] = ()  # for an operator: the networks that have it, and how often

    @property
    def id(self) -> str:
        """A name for test ids: no spaces, unique."""
        image = f"-{self.image}px" if self.image else ""
        text = f"{self.label}{image}-b{self.batch}-{self.dtype}"
        return text.replace(" ", "_").replace("->", "to")

    @property
    def group(self) -> str:
        """What pytest-benchmark groups by: the contenders of one case stand together."""
        image = f", {self.image} px" if self.image else ""
        return f"{self.kind}: {self.label}{image}, batch {self.batch}, {self.dtype}, {self.device}"

    @functools.cached_property
    def work(self) -> tuple[Layer, ...]:
        """FLOPs and bytes, layer by layer."""
        if self.kind == "classifier":
            return (_whole(self.subject, self.batch, DTYPES[self.dtype].itemsize),)
        if self.call is not None:
            return (_layer(self.call, self.batch, DTYPES[self.dtype].itemsize),)
        calls = capture(self.subject, self.image)
        return tuple(_layer(call, self.batch, DTYPES[self.dtype].itemsize) for call in calls)

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.work)

    @property
    def bytes(self) -> int:
        return sum(layer.weight_bytes + layer.activation_bytes for layer in self.work)

    def build(self) -> Workload:
        """Allocates the tensors, the same ones for every contender: random, never zeros, from a fixed seed."""
        torch.manual_seed(0)
        dtype, device = DTYPES[self.dtype], torch.device(self.device)
        if self.call is not None:
            inputs, parameters = _tensors(self.call, self.batch)
            fast: nn.Module = Function(self.call, parameters)
            reference: nn.Module = Function(self.call, parameters, eager=True)
        elif self.kind == "classifier":
            size = classifiers.image(self.subject)
            inputs = {"input": torch.randn(self.batch, 3, size, size)}
            fast = reference = classifiers.build(self.subject)
            _disturb_statistics(fast)
        else:
            network = NETWORKS[self.subject]
            C, H, W = network.input
            inputs = {"input": torch.randn(self.batch, C, self.image or H, self.image or W)}
            fast = network.build()
            _disturb_statistics(fast)
            reference = plain(fast)

        def place(tensor: Tensor) -> Tensor:
            moved = tensor.to(device, dtype)
            return moved.contiguous(memory_format=torch.channels_last) if moved.dim() == 4 else moved

        placed = {k: [place(t) for t in v] if isinstance(v, list) else place(v) for k, v in inputs.items()}
        for module in (fast, reference):
            module.to(device, dtype, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
        return Workload(self, fast, reference, placed)


@dataclass
class Workload:
    """A case with its tensors: the fastcnn module, the same in PyTorch alone, and the inputs of both."""

    case: Case
    fast: nn.Module
    plain: nn.Module
    inputs: dict[str, Any]
    optimised: nn.Module | None = None  # once fastcnn took part with a network

    def truth(self) -> Tensor:
        """The result in float64, from the values that the contenders get (after rounding to their dtype)."""

        def double(value: Any) -> Any:
            return [double(v) for v in value] if isinstance(value, list) else value.double()

        with torch.no_grad():
            module = copy.deepcopy(self.plain).double()
            return module(*map(double, self.inputs.values())).detach()


class Function(nn.Module):
    """A call of fastcnn.functional as a module: activations are inputs, the other tensors parameters."""

    def __init__(self, call: Call, parameters: dict[str, Tensor], eager: bool = False) -> None:
        super().__init__()
        function = getattr(functional, call.function)
        self.function: Callable[..., Any] = EAGER[function] if eager else function
        self.names = [name for name, _ in call.tensors if name in _ACTIVATIONS]
        self.constants = dict(call.arguments)
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value.clone(), requires_grad=False))
        self.parameter_names = list(parameters)

    def forward(self, *inputs: Any) -> Tensor:
        tensors = {name: getattr(self, name) for name in self.parameter_names}
        return self.function(**dict(zip(self.names, inputs, strict=True)), **tensors, **self.constants)


def _tensors(call: Call, batch: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    def activation(shape: Sequence[int]) -> Tensor:
        return torch.randn(batch, *shape[1:])

    inputs: dict[str, Any] = {}
    parameters: dict[str, Tensor] = {}
    for name, shape in call.tensors:
        if name == "tensors":
            inputs[name] = [activation(s) for s in shape]
        elif name in _ACTIVATIONS:
            inputs[name] = activation(shape)
        else:
            scale = torch.Size(shape[1:]).numel() ** -0.5 if len(shape) > 1 else 1.0
            parameters[name] = torch.randn(shape) * scale
    return inputs, parameters


def _disturb_statistics(model: nn.Module) -> None:
    # Fresh batch normalisation divides by 1 and adds 0: a contender that leaves it out would pass the check.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0.0, 0.1)


# ---- the layers of the networks ----------------------------------------------------------------------------


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in EAGER:
            bound = inspect.signature(func).bind(*args, **kwargs).arguments
            bound.update(bound.pop("epilogue", {}))
            self.calls.append(_as_call(func.__name__, bound))
        return func(*args, **kwargs)


def _as_call(function: str, bound: dict[str, Any]) -> Call:
    if function in ("conv3x3_relu", "conv1x1_relu"):
        bound = {"padding": 1 if function == "conv3x3_relu" else 0, **bound, "activation": "relu"}
        function = "conv2d"
    tensors: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for name, value in bound.items():
        if name == "out" or value is None:
            continue
        if isinstance(value, Tensor):
            tensors[name] = tuple(value.shape)
        elif name == "tensors":
            tensors[name] = tuple(tuple(t.shape) for t in value)
        else:
            arguments[name] = tuple(value) if isinstance(value, list | tuple) else value
    if function == "conv2d" and "bias" not in tensors:
        # Batch normalisation follows, and inference folds it: a bias and, in these networks, ReLU.
        tensors["bias"] = (tensors["weight"][0],)
        arguments["activation"] = "relu"
    return Call(function, tuple(tensors.items()), tuple(sorted(arguments.items())))


@functools.lru_cache(maxsize=64)
def capture(network: str, image: int = 0) -> tuple[Call, ...]:
    """Every call of fastcnn.functional that a network makes, found by running it without data."""
    description = NETWORKS[network]
    C, H, W = description.input
    with torch.device("meta"):
        model = description.build()
        input = torch.empty(1, C, image or H, image or W)
    with torch.no_grad(), _Recorder() as recorder:
        model.to(memory_format=torch.channels_last)(input.contiguous(memory_format=torch.channels_last))  # type: ignore[call-overload]
    return tuple(recorder.calls)


@functools.lru_cache(maxsize=8)
def layers(networks: tuple[str, ...] = tuple(NETWORKS)) -> dict[Call, tuple[tuple[str, int], ...]]:
    """Every distinct call that the networks make, with the networks that make it and how often."""
    found: dict[Call, Counter[str]] = {}
    for network in networks:
        for call in capture(network):
            found.setdefault(call, Counter())[network] += 1
    return {call: tuple(counts.items()) for call, counts in found.items()}


# ---- work --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """The least that a call must do: its FLOPs, and every tensor moved once."""

    function: str
    flops: int
    weight_bytes: int
    activation_bytes: int


def _layer(call: Call, batch: int, itemsize: int) -> Layer:
    """A multiply-add counts as two; functions other than products count one FLOP an element moved."""
    with torch.no_grad(), torch.device("meta"):
        inputs, parameters = _tensors(call, batch)
        output = Function(call, parameters, eager=True)(*inputs.values())
    numbers = sum(t.numel() for v in inputs.values() for t in (v if isinstance(v, list) else [v])) + output.numel()
    if call.function in ("conv2d", "linear"):
        flops = 2 * output.numel() * parameters["weight"][0].numel()
    elif call.function == "rbf":
        flops = 3 * output.numel() * parameters["centers"].shape[1]
    else:
        flops = numbers
    weights = sum(p.numel() for p in parameters.values())
    return Layer(call.function, flops, weights * itemsize, numbers * itemsize)


def _whole(classifier: str, batch: int, itemsize: int) -> Layer:
    """The products of a network that is not made of our layers, as PyTorch counts them; its weights, moved once."""
    from torch.utils.flop_counter import FlopCounterMode

    size = classifiers.image(classifier)
    model = classifiers.build(classifier).to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(batch, 3, size, size, device="meta"))
    weights = sum(p.numel() for p in model.parameters())
    return Layer(classifier, counter.get_total_flops(), weights * itemsize, batch * 3 * size**2 * itemsize)


# ---- the suite ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """Which cases of the suite to make."""

    kinds: tuple[str, ...] = ("op", "network", "overhead")
    networks: tuple[str, ...] = tuple(NETWORKS)
    op_batches: tuple[int, ...] = (1, 8, 32, 128)
    network_batches: tuple[int, ...] = (1, 8, 32, 128)
    images: tuple[int, ...] = (128, 160, 192, 256, 320)
    dtypes: tuple[str, ...] = ("float32",)
    device: str = "cpu"
    # A call of more work than this is left out: 3e11 FLOPs are about two seconds on two CPU cores.
    most_flops: float = 3e11
    match: str = field(default="", kw_only=True)

    def cases(self) -> list[Case]:
        made: list[Case] = []
        for dtype in self.dtypes:
            common: dict[str, Any] = {"dtype": dtype, "device": self.device}
            if "network" in self.kinds:
                made += self._networks(common)
            if "classifier" in self.kinds:
                made += [Case("classifier", name, name, **common) for name in classifiers.CLASSIFIERS]
            if "op" in self.kinds:
                for call, networks in layers(self.networks).items():
                    case = Case("op", call.function, call.label, call=call, networks=networks, **common)
                    made += [replace(case, batch=batch) for batch in self.op_batches]
            if "overhead" in self.kinds:
                made += [Case("overhead", call.function, f"tiny {call.function}", call=call, **common) for call in TINY]
        matching = [case for case in made if self.match in case.group]
        return [case for case in matching if case.flops <= self.most_flops]

    def _networks(self, common: dict[str, Any]) -> Iterable[Case]:
        for name in self.networks:
            case = Case("network", name, name, **common)
            yield from (replace(case, batch=batch) for batch in self.network_batches)
            if name in FIVE and name not in ("lenet5", "alexnet"):
                yield from (replace(case, image=image) for image in self.images)


# As little work as a call can have: what remains is the cost of the call itself.
TINY = (
    Call("add_relu", (("input", (1, 8, 1, 1)), ("other", (1, 8, 1, 1))), ()),
    Call("max_pool2d", (("input", (1, 8, 2, 2)),), (("kernel_size", 2),)),
    Call("linear", (("input", (1, 8)), ("weight", (8, 8)), ("bias", (8,))), (("activation", "relu"),)),
    Call(
        "conv2d",
        (("input", (1, 8, 4, 4)), ("weight", (8, 8, 3, 3)), ("bias", (8,))),
        (("activation", "relu"), ("padding", 1)),
    ),
)
