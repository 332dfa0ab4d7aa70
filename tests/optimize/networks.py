"""Random networks: a `Case` says what stands in one, `build` makes it, step by step on real tensors.

A step is a name of `STEPS` and a seed for its own choices. One that does not fit where it stands is left out, so any
part of a list of steps is a network too, and a failing one can be made small.
"""

from __future__ import annotations

import dataclasses
import random
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Run = Callable[["Net", list[Any]], Any]
STEPS: dict[str, Callable[[Builder, random.Random], Run | None]] = {}
Pair = namedtuple("Pair", "first second")
LARGEST = 20000  # elements of a value: small networks find the same faults


@dataclasses.dataclass
class Features:
    image: Any
    rest: list[Any]
    count: int = 2


@dataclasses.dataclass(frozen=True)
class Case:
    """What a network and its inputs are made of; printed when a test fails."""

    steps: tuple[tuple[str, int], ...]
    N: int = 2
    C: int = 3
    H: int = 7
    W: int = 8
    layout: str = "contiguous"
    dtype: str = "float32"
    other: str = "none"  # the second argument
    result: str = "last"
    inference: bool = False
    frees: bool = True  # values are dropped once they are not read any more


class Net(nn.Module):
    def __init__(self, result: str, frees: bool) -> None:
        super().__init__()
        self.program: list[tuple[Run, list[int]]] = []
        self.result, self.frees, self.calls = result, frees, 0
        self.results: list[int] = []
        self.dtypes: set[torch.dtype] = set()  # of the values

    def forward(self, x: Tensor, other: Any = None, *, scale: float = 1.0, more: Any = None) -> Any:
        v: list[Any] = [x, *_tensors(other), *_tensors(more)]
        if scale != 1:
            v[0] = v[0] * scale
        for run, last_read in self.program:
            made = run(self, v)
            v.extend(made if isinstance(made, list | tuple) else [made])
            for i in last_read if self.frees else ():
                v[i] = None
        return RESULTS[self.result]([v[i] for i in self.results])


def _tensors(argument: Any) -> list[Tensor]:
    if argument is None:
        return []
    if isinstance(argument, Tensor):
        return [argument]
    if isinstance(argument, dict):
        return [t for item in argument.values() for t in _tensors(item)]
    if isinstance(argument, Features):
        return [*_tensors(argument.image), *_tensors(argument.rest)]
    return [t for item in argument for t in _tensors(item)]


RESULTS: dict[str, Callable[[list[Any]], Any]] = {
    "last": lambda r: r[-1],
    "tuple": tuple,
    "list": lambda r: [*r, None],
    "dict": lambda r: {"out": r[-1], "rest": r[:-1], 3: "constant"},
    "ordered": lambda r: OrderedDict(out=r[-1], shape=r[-1].shape),
    "named": lambda r: Pair(r[-1], (r[0], 1.5)),
    "dataclass": lambda r: Features(r[-1], r[:-1]),
    "twice": lambda r: (r[-1], r[-1]),
}


class Builder:
    """Runs each step as it is added, to know shapes."""

    def __init__(self, case: Case, sample: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        self.net, self.dtype = Net(case.result, case.frees), getattr(torch, case.dtype)
        (x, *others), named = sample
        self.v: list[Any] = [
            t.clone() for t in (x, *(t for o in others for t in _tensors(o)), *_tensors(named.get("more")))
        ]
        self.arguments = len(self.v)
        self.layers: list[tuple[str, nn.Module, int]] = []
        self._last: dict[int, int] = {}
        self._read: list[int] = []

    def pick(self, r: random.Random, *dims: int, where: Any = None) -> int | None:
        """A value of one of these numbers of dimensions: the newest, or any."""
        fits = [
            i
            for i, t in enumerate(self.v)
            if isinstance(t, Tensor)
            and (not dims or t.dim() in dims)
            and t.is_floating_point()
            and (where is None or where(t))
        ]
        if not fits:
            return None
        i = fits[-1] if r.random() < 0.7 else r.choice(fits)
        self._read.append(i)
        return i

    def layer(self, module: nn.Module, i: int) -> str:
        name = f"layer{len(self.layers)}"
        _perturb(module)
        dtype = self.v[i].dtype
        self.net.add_module(name, module.eval().to(dtype if dtype.is_floating_point else None))
        self.layers.append((name, module, i))
        return name

    def constant(self, r: random.Random, tensor: Tensor) -> str:
        """A parameter, a buffer or a plain attribute."""
        name = f"constant{len(vars(self.net)) + len(self.net._parameters) + len(self.net._buffers)}"
        kind = r.randrange(3)
        if kind == 0:
            self.net.register_parameter(name, nn.Parameter(tensor))
        elif kind == 1:
            self.net.register_buffer(name, tensor)
        else:
            setattr(self.net, name, tensor)
        return name

    def add(self, name: str, seed: int) -> None:
        r = random.Random(seed)
        torch.manual_seed(seed)
        self._read = []
        versions = [t.clone() for t in self.v]
        try:
            run = STEPS[name](self, r)
            if run is None or None in self._read:
                return
            made = run(self.net, self.v)
        except (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError):
            self.v = versions
            return
        made = list(made) if isinstance(made, list | tuple) else [made]
        if any(t.numel() > LARGEST for t in made):
            self.v = versions
            return
        self._last.update(dict.fromkeys(self._read, len(self.net.program)))
        self.net.program.append((run, []))
        self.v += made
        for i, t in [(i, t) for i, t in enumerate(self.v) if isinstance(t, Tensor) and t.is_floating_point()]:
            if t.numel() and (i >= len(versions) or i in self._read) and not 1e-3 < t.abs().max() < 50:
                self._tame(i)

    def _tame(self, i: int) -> None:
        """Brings a value back to a size at which rounding stays rounding."""
        run: Run = lambda s, v: v[i] / (v[i].abs().amax() + 1)  # noqa: E731
        self._last[i] = len(self.net.program)
        self.net.program.append((run, []))
        self.v.append(run(self.net, self.v))

    def finish(self, r: random.Random) -> Net:
        count = 1 if self.net.result in ("last", "ordered", "twice") else r.choice([2, 2, 3])
        fits = [i for i, t in enumerate(self.v) if isinstance(t, Tensor)]
        chosen = [
            r.choice(fits[self.arguments :] or fits) if r.random() < 0.9 else r.choice(fits) for _ in range(count - 1)
        ]
        self.net.results = [*chosen, fits[-1]]
        self.net.dtypes = {t.dtype for t in self.v if isinstance(t, Tensor) and t.is_floating_point()}
        for i, at in self._last.items():
            if i not in self.net.results:
                self.net.program[at][1].append(i)
        return self.net.eval()


def _perturb(module: nn.Module) -> None:
    """Fresh normalisations are almost identities: a wrong fold would go unnoticed."""
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.running_mean is not None:
            m.running_mean.copy_(0.3 * torch.randn_like(m.running_mean))
            m.running_var.copy_(0.1 + torch.rand_like(m.running_var))
        if isinstance(m, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm) and m.weight is not None:
            with torch.no_grad():
                m.weight.copy_(0.5 + torch.rand_like(m.weight))
                m.bias.copy_(0.3 * torch.randn_like(m.bias))


def build(case: Case) -> Net:
    with torch.no_grad():
        b = Builder(case, inputs(case, 0))
        for name, seed in case.steps:
            b.add(name, seed)
        r = random.Random(len(case.steps))
        net = b.finish(r)
    return net


# ---- inputs --------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[int, int, int, int, torch.dtype], Tensor]] = {
    "contiguous": lambda N, C, H, W, d: torch.randn(N, C, H, W, dtype=d),
    "channels_last": lambda N, C, H, W, d: torch.randn(N, C, H, W, dtype=d).to(memory_format=torch.channels_last),
    "channels": lambda N, C, H, W, d: torch.randn(N, C + 2, H, W, dtype=d)[:, 1:-1],
    "channels_of_last": lambda N, C, H, W, d: torch.randn(N, H, W, C + 3, dtype=d).permute(0, 3, 1, 2)[:, :-3],
    "corner": lambda N, C, H, W, d: torch.randn(N, C, H + 1, W + 2, dtype=d)[:, :, 1:, :-2],
    "every_second": lambda N, C, H, W, d: torch.randn(2 * N, C, H, 2 * W, dtype=d)[::2, :, :, ::2],
    "transposed": lambda N, C, H, W, d: torch.randn(N, C, W, H, dtype=d).mT,
    "expanded": lambda N, C, H, W, d: torch.randn(N, 1, H, W, dtype=d).expand(N, C, H, W),
    "offset": lambda N, C, H, W, d: torch.randn(N * C * H * W + 3, dtype=d)[3:].view(N, C, H, W),
    "bytes": lambda N, C, H, W, d: torch.randint(0, 255, (N, C, H, W), dtype=torch.uint8).to(d).div_(255),
}

OTHERS: dict[str, Callable[[Tensor], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "none": lambda x: ((), {}),
    "given_none": lambda x: ((None,), {"more": None}),
    "image": lambda x: ((torch.randn_like(x),), {}),
    "row": lambda x: ((torch.randn(x.shape[:2], dtype=x.dtype),), {}),
    "same": lambda x: ((x,), {}),
    "view": lambda x: ((x[:, :1],), {}),
    "scalar": lambda x: ((torch.rand((), dtype=x.dtype),), {"scale": 0.5}),
    "list": lambda x: (([torch.randn_like(x), x[:1].clone()],), {}),
    "dict": lambda x: ((), {"more": {"a": torch.randn_like(x), "n": None}}),
    "dataclass": lambda x: ((Features(torch.randn_like(x), []),), {"scale": 2.0}),
}


def inputs(case: Case, seed: int, N: int | None = None, grow: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    torch.manual_seed(1000 + seed)
    sizes = case.N if N is None else N, case.C, case.H + grow, case.W + grow
    x = LAYOUTS[case.layout](*sizes, getattr(torch, case.dtype))
    positional, named = OTHERS[case.other](x)
    return (x, *positional), named


# ---- steps: layers -------------------------------------------------------------------------------------------------


def step(function: Callable[[Any, random.Random], Run | None]) -> Callable[[Any, random.Random], Run | None]:
    STEPS[function.__name__] = function
    return function


ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.GELU,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.LeakyReLU,
    nn.ELU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Mish,
    nn.SELU,
    nn.Identity,
    nn.CELU,
    nn.Softsign,
    nn.Hardtanh,
    nn.PReLU,
)


def _call(b: Builder, module: nn.Module, i: int) -> Run:
    name = b.layer(module, i)
    return lambda s, v: getattr(s, name)(v[i])


def _convolution(r: random.Random, C: int) -> nn.Conv2d:
    groups = r.choice([1, 1, 1, C, *[g for g in (2, 3) if C % g == 0]])
    K = groups * r.randint(1, max(1, 12 // groups)) if groups > 1 else r.choice([1, 2, 3, 5, 8, 16, 17])
    kernel = r.choice([1, 1, 3, 3, 3, 5, 7, (1, 3), (3, 1), 2])
    padding = r.choice([0, 1, "same", (1, 0), (kernel if isinstance(kernel, int) else 3) // 2])
    stride = 1 if padding == "same" else r.choice([1, 1, 2, (2, 1), 3])
    mode = r.choice(["zeros"] * 6 + ["reflect", "replicate", "circular"])
    return nn.Conv2d(
        C, K, kernel, stride, padding, r.choice([1, 1, 1, 2]), groups, bias=r.random() < 0.6, padding_mode=mode
    )


@step
def conv(b, r):
    i = b.pick(r, 4)
    return None if i is None else _call(b, _convolution(r, b.v[i].shape[1]), i)


@step
def conv_block(b, r):
    """Convolution, normalisation, activation, each perhaps; in place, perhaps."""
    i = b.pick(r, 4)
    if i is None:
        return None
    first = _convolution(r, b.v[i].shape[1])
    K = first.out_channels
    norm = r.choice(
        [nn.BatchNorm2d(K, eps=r.choice([1e-5, 1e-3, 0.1])), nn.BatchNorm2d(K, affine=False), nn.Identity()]
    )
    kind = r.choice(ACTIVATIONS)
    act = kind(inplace=True) if r.random() < 0.4 and "inplace" in kind.__init__.__code__.co_varnames else kind()
    layers = [first, norm, act]
    if r.random() < 0.2:
        layers.insert(r.randrange(3), nn.Dropout(0.5))
    if r.random() < 0.2:
        layers.append(r.choice([nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.LocalResponseNorm(3)]))
    return _call(b, nn.Sequential(*layers), i)


@step
def residual(b, r):
    i = b.pick(r, 4)
    if i is None:
        return None
    C = b.v[i].shape[1]
    name = b.layer(nn.Sequential(nn.Conv2d(C, C, 3, padding=1, bias=r.random() < 0.5), nn.BatchNorm2d(C)), i)
    form, act = r.randrange(5), r.choice(ACTIVATIONS[:10])()

    def run(s, v):
        y = getattr(s, name)(v[i])
        if form == 0:
            y += v[i]
            return F.relu_(y)
        if form == 1:
            return act(v[i] + y)
        if form == 2:
            return act(torch.add(y, v[i], alpha=0.5))
        return act(y + v[i].relu()) if form == 3 else act(y.clone() + y)

    return run


@step
def branches(b, r):
    """Inception: convolutions of one value, joined or added."""
    i = b.pick(r, 4)
    if i is None:
        return None
    C, joined = b.v[i].shape[1], r.random() < 0.6
    names = []
    for _ in range(r.randint(2, 3)):
        k = r.choice([1, 3])
        parts = [nn.Conv2d(C, r.randint(1, 6) if joined else 5, k, padding=k // 2), nn.BatchNorm2d(5), nn.ReLU()]
        names.append(b.layer(nn.Sequential(*parts[:1] if joined else parts[: r.choice([1, 2, 3])]), i))
    own = r.random() < 0.3 and joined

    def run(s, v):
        made = [getattr(s, name)(v[i]) for name in names]
        return torch.cat([v[i], *made] if own else made, 1) if joined else sum(made)

    return run


@step
def squeeze_excite(b, r):
    i = b.pick(r, 4)
    if i is None:
        return None
    C, rows = b.v[i].shape[1], r.random() < 0.4
    gate = r.choice([nn.Sigmoid, nn.Hardsigmoid, nn.Tanh])()
    if rows:
        name = b.layer(nn.Sequential(nn.Linear(C, 4), nn.ReLU(), nn.Linear(4, C), gate), i)
    else:
        name = b.layer(nn.Sequential(nn.Conv2d(C, 4, 1), nn.SiLU(), nn.Conv2d(4, C, 1), gate), i)
    form, act = r.randrange(4), r.random() < 0.3

    def run(s, v):
        x = v[i]
        pooled = x.mean((2, 3), keepdim=not rows) if form < 2 else F.adaptive_avg_pool2d(x, 1)
        pooled = pooled.flatten(1) if rows else pooled
        scale = getattr(s, name)(pooled)
        scale = scale[:, :, None, None] if rows else scale
        y = scale * x if form % 2 else x * scale.expand_as(x)
        return F.relu(y + x) if act else y

    return run


@step
def normalisation(b, r):
    i = b.pick(r, 2, 3, 4)
    if i is None:
        return None
    t = b.v[i]
    C = t.shape[1]
    kinds: list[Any] = [nn.LayerNorm(t.shape[-1]), nn.LayerNorm(t.shape[-1], elementwise_affine=False)]
    if t.dim() == 4:
        kinds += [nn.BatchNorm2d(C), nn.BatchNorm2d(C, track_running_stats=False), nn.InstanceNorm2d(C, affine=True)]
        kinds += [nn.GroupNorm(g, C) for g in (1, C)] + [nn.LocalResponseNorm(r.choice([1, 2, 5]))]
    elif t.dim() == 2:
        kinds += [nn.BatchNorm1d(C)]
    else:
        kinds += [nn.BatchNorm1d(C), nn.GroupNorm(1, C)]
    return _call(b, r.choice(kinds), i)


@step
def linear(b, r):
    i = b.pick(r, 2, 3, 4)
    if i is None:
        return None
    t = b.v[i]
    layers = [nn.Linear(t.shape[-1], r.choice([1, 3, 8, 10]), bias=r.random() < 0.7)]
    if t.dim() < 4 and r.random() < 0.5:
        features = layers[0].out_features if t.dim() == 2 else t.shape[1]
        layers.append(nn.BatchNorm1d(features))
    if r.random() < 0.5:
        layers.append(r.choice(ACTIVATIONS)())
    return _call(b, nn.Sequential(*layers), i)


@step
def other_layer(b, r):
    """Layers that stay PyTorch's."""
    i = b.pick(r, 4)
    if i is None:
        return None
    C = b.v[i].shape[1]
    kinds: list[Any] = [
        nn.ConvTranspose2d(C, 3, 2, 2),
        nn.ConvTranspose2d(C, 4, 3, 2, 1, 1),
        nn.ZeroPad2d((1, 0, 2, 1)),
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d(1),
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(2),
        nn.ChannelShuffle(2),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample((5, 9), mode="nearest-exact"),
        nn.Unfold(2),
        nn.PReLU(C),
        nn.Softmax2d(),
        nn.Flatten(),
        nn.Flatten(2),
        nn.Dropout2d(),
        nn.AlphaDropout(),
        nn.AdaptiveMaxPool2d((2, 3)),
        nn.LPPool2d(2, 2),
        nn.FeatureAlphaDropout(),
        nn.Hardshrink(),
        nn.LogSoftmax(1),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(C, 3, 3)),
    ]
    return _call(b, r.choice(kinds), i)


@step
def pool(b, r):
    i = b.pick(r, 4)
    if i is None:
        return None
    kernel, ceil = r.choice([2, 3, (2, 3), (1, 1), 5]), r.random() < 0.3
    stride, padding = r.choice([None, 1, 2, (2, 1)]), r.choice([0, 0, 1, (1, 0)])
    kinds: list[Any] = [
        nn.MaxPool2d(kernel, stride, padding, r.choice([1, 1, 2]), ceil_mode=ceil),
        nn.AvgPool2d(kernel, stride, padding, ceil, r.random() < 0.5, r.choice([None, None, 3])),
        nn.AdaptiveAvgPool2d(r.choice([1, 2, (3, 2), (None, 1), (1, 4)])),
    ]
    return _call(b, r.choice(kinds), i)


@step
def shared(b, r):
    """A layer that has run before, on another value."""
    if not b.layers:
        return None
    name, _, _ = r.choice(b.layers)
    i = b.pick(r)
    return lambda s, v: getattr(s, name)(v[i])


@step
def attention(b, r):
    i = b.pick(r, 4, 3)
    if i is None:
        return None
    image = b.v[i].dim() == 4
    C = b.v[i].shape[1] if image else b.v[i].shape[-1]
    name, form = b.layer(nn.Linear(C, 3 * C), i), r.randrange(3)

    def run(s, v):
        tokens = v[i].flatten(2).transpose(1, 2) if image else v[i]
        q, k, w = getattr(s, name)(tokens).chunk(3, -1)
        if form == 0:
            return F.scaled_dot_product_attention(q, k, w)
        scores = q @ k.transpose(-2, -1) * C**-0.5 if form == 1 else torch.einsum("nqc,nkc->nqk", q, k)
        y = scores.softmax(-1) @ w
        return y.transpose(1, 2).reshape(v[i].shape) if image else y

    return run


@step
def norm_of_channels_last(b, r):
    """ConvNeXt's block: depthwise, permuted, layer norm, linear, GELU, linear, layer scale, added."""
    i = b.pick(r, 4)
    if i is None:
        return None
    C = b.v[i].shape[1]
    depthwise = b.layer(nn.Conv2d(C, C, 3, padding=1, groups=C), i)
    rows = b.layer(nn.Sequential(nn.LayerNorm(C), nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C)), i)
    scale = b.constant(r, torch.randn(C, dtype=b.v[i].dtype))
    return lambda s, v: (
        v[i]
        + (getattr(s, rows)(getattr(s, depthwise)(v[i]).permute(0, 2, 3, 1)) * getattr(s, scale)).permute(0, 3, 1, 2)
    )


# ---- steps: functions ----------------------------------------------------------------------------------------------

FUNCTIONS: tuple[Callable[[Tensor], Any], ...] = (
    torch.relu,
    torch.sigmoid,
    torch.tanh,
    F.silu,
    F.gelu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.hardswish,
    F.relu6,
    F.leaky_relu,
    lambda x: F.leaky_relu(x, 0.2),
    F.elu,
    lambda x: F.elu(x, 0.7),
    F.softplus,
    lambda x: x.clamp(min=0),
    lambda x: x.clamp(0, 6),
    lambda x: x.clamp(-1, 1),
    lambda x: torch.clamp(x, max=0.5),
    torch.abs,
    torch.neg,
    torch.square,
    lambda x: x**2,
    lambda x: (x.abs() + 1).sqrt(),
    lambda x: (x * x + 1).rsqrt(),
    lambda x: torch.exp(-x.abs()),
    lambda x: torch.where(x > 0, x, 0.1 * x),
    lambda x: x.masked_fill(x < 0, 0),
    lambda x: x * torch.sigmoid(x),
    lambda x: x * F.relu6(x + 3) / 6,
    lambda x: x * x,
    lambda x: x + x,
    lambda x: x - x.mean(),
    lambda x: x.softmax(-1),
    lambda x: x.log_softmax(0),
    lambda x: F.normalize(x, dim=-1),
    lambda x: torch.maximum(x, x.flip(-1)),
    lambda x: x.roll(1, -1),
    lambda x: x.flip(0),
    lambda x: x.cumsum(-1),
    lambda x: (x > 0) * x,
    lambda x: x.lerp(x.abs(), 0.25),
    lambda x: torch.nan_to_num(x),
    lambda x: -x + 1,
    lambda x: 1 - x,
    lambda x: 2 / (x.abs() + 1),
    lambda x: x.mul(2).add(1),
    lambda x: x.mul(True),
    lambda x: x + 0,
    lambda x: x / 3,
    lambda x: torch.div(x, 0.5),
    lambda x: x * 0.5 - 1,
    lambda x: torch.rsub(x, 1, alpha=2),
    lambda x: F.threshold(x, 0.1, 0.0),
    lambda x: F.dropout(x, training=False),
    lambda x: F.hardtanh(x, -2, 2),
    lambda x: x.detach(),
    lambda x: x.clone(),
    lambda x: x.contiguous(),
    lambda x: torch.zeros_like(x) + x,
    lambda x: x.float(),
    lambda x: x.double(),
    lambda x: x.bfloat16(),
    lambda x: x.to(torch.float32) * 2,
    lambda x: x.type_as(x),
    lambda x: torch.ones_like(x, dtype=torch.float32) + x,
    lambda x: x.addcmul(x, x, value=0.1),
    lambda x: x.nan_to_num_(),
    lambda x: F.prelu(x, torch.full((1,), 0.25, dtype=x.dtype)),
)


@step
def function(b, r):
    i, f = b.pick(r), r.choice(FUNCTIONS)
    return lambda s, v: f(v[i])


@step
def activation(b, r):
    i, f = b.pick(r), r.choice(FUNCTIONS[:13])
    return lambda s, v: f(v[i])


REDUCTIONS: tuple[Callable[[Tensor], Any], ...] = (
    lambda x: x.mean((2, 3)),
    lambda x: x.mean((-2, -1), keepdim=True),
    lambda x: x.mean([3, 2]),
    lambda x: x.mean(1),
    lambda x: x.sum((2, 3)),
    lambda x: x.amax(1, keepdim=True),
    lambda x: x.mean(-1),
    lambda x: x.max(1)[0],
    lambda x: x.std((2, 3), unbiased=False),
    lambda x: x.mean(),
    lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    lambda x: F.adaptive_avg_pool2d(x, 1),
    lambda x: x.flatten(2).mean(2),
    lambda x: x.norm(dim=1, keepdim=True),
    lambda x: x.sum(),
    lambda x: torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1),
    lambda x: F.max_pool2d(x, x.shape[2:]),
    lambda x: F.avg_pool2d(x, x.shape[-1]),
    lambda x: x.topk(1, 1)[0],
    lambda x: x.mean((2, 3), dtype=torch.float64),
    lambda x: x.sort(-1)[0],
    lambda x: torch.logsumexp(x, 1),
)


@step
def reduction(b, r):
    i, f = b.pick(r, 4), r.choice(REDUCTIONS)
    return lambda s, v: f(v[i])


VIEWS: tuple[Callable[[Tensor], Any], ...] = (
    lambda x: x.flatten(1),
    lambda x: torch.flatten(x, 2),
    lambda x: x.reshape(len(x), -1),
    lambda x: x.mT,
    lambda x: x.permute(0, 2, 3, 1),
    lambda x: x.permute(0, 3, 1, 2),
    lambda x: x.transpose(1, 2),
    lambda x: x[:, 1:],
    lambda x: x[:, :1],
    lambda x: x[:, ::2],
    lambda x: x[..., :-1],
    lambda x: x[:, :, 1:, 1:],
    lambda x: x[:1],
    lambda x: x[0:],
    lambda x: x[:, -2:],
    lambda x: x[:, 0],
    lambda x: x[:, 0:1],
    lambda x: x.unsqueeze(1),
    lambda x: x[:, :, None, None],
    lambda x: x.squeeze(),
    lambda x: x.squeeze(-1),
    lambda x: x[..., None],
    lambda x: x.view(x.shape),
    lambda x: x.view(len(x), -1),
    lambda x: x.unflatten(1, (1, -1)),
    lambda x: x.movedim(1, -1),
    lambda x: x.expand(2, *x.shape),
    lambda x: x.repeat_interleave(2, 1),
    lambda x: x.repeat(1, 2, 1, 1),
    lambda x: x.contiguous(memory_format=torch.channels_last),
    lambda x: x.to(memory_format=torch.channels_last),
    lambda x: x.select(-1, 0),
    lambda x: x.narrow(1, 0, 1),
    lambda x: x.diagonal(dim1=-2, dim2=-1),
    lambda x: x[[0, 0]],
    lambda x: x[:, torch.arange(x.shape[1] - 1, -1, -1)],
    lambda x: x.as_strided(x.shape, x.stride()),
    lambda x: x.T,
    lambda x: x.unfold(-1, 2, 1),
    lambda x: F.pad(x, (1, 1)),
    lambda x: F.pad(x, (0, 1, 1, 0), value=1.0),
    lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    lambda x: F.pad(x, (-1, 0)),
    lambda x: F.pad(x, (1, 0, 1, 0), mode="reflect"),
    lambda x: F.interpolate(x, scale_factor=2),
    lambda x: F.interpolate(x, (4, 5), mode="bilinear", antialias=True),
    lambda x: x.view(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    lambda x: F.pixel_shuffle(x, 2),
    lambda x: x.new_zeros(x.shape) + x,
    lambda x: x.view_as(x),
    lambda x: x.chunk(2, 1),
    lambda x: x.split(1, 1)[:2],
    lambda x: x.unbind(0)[:2],
    lambda x: x.chunk(2, 0),
    lambda x: torch.tensor_split(x, 2, 1),
    lambda x: x.split([1, x.shape[1] - 1], 1),
    lambda x: list(reversed(x.chunk(2, 1))),
    lambda x: torch.stack([x, -x], 1),
    lambda x: torch.cat([x, x.abs()], 1),
    lambda x: torch.cat([x, x]),
    lambda x: torch.cat([x[:, 1:], x[:, :1]], 1),
    lambda x: torch.cat(x.split(1, 1)[::-1], 1),
    lambda x: torch.cat([x.flatten(1), x.new_zeros(len(x), 2)], 1),
)


@step
def view(b, r):
    i, f = b.pick(r), r.choice(VIEWS)
    return lambda s, v: f(v[i])


@step
def image(b, r):
    """Something with four dimensions again."""
    i = b.pick(r, 1, 2, 3, 5)
    if i is None:
        return None
    form, n = r.randrange(3), b.v[i].dim()

    def run(s, v):
        x = v[i]
        if n < 4:
            x = x[(...,) + (None,) * (4 - n)] if form else x[(slice(None),) + (None,) * (4 - n)]
            return x.expand(*x.shape[:-1], 3) if form == 2 and x.shape[-1] == 1 else x
        return x.flatten(1, 2)

    return run


BINARY: tuple[Callable[[Tensor, Tensor], Any], ...] = (
    torch.add,
    torch.add,
    lambda x, y: x + y,
    lambda x, y: x - y,
    torch.mul,
    lambda x, y: x * y,
    torch.maximum,
    lambda x, y: x / (y.abs() + 1),
    lambda x, y: torch.cat([x, y], 1),
    lambda x, y: torch.cat([y, x], 1),
    lambda x, y: torch.cat([x, y], -1),
    lambda x, y: torch.cat([x, y, x], 1),
    lambda x, y: F.relu(x + y),
    lambda x, y: torch.stack([x, y]),
    lambda x, y: torch.where(y > 0, x, x * 0.9),
    lambda x, y: x + 2 * y,
    lambda x, y: torch.sub(x, y, alpha=2),
    lambda x, y: x * y.mean((2, 3), keepdim=True),
    lambda x, y: x @ y.mT,
    lambda x, y: x.addcmul(y, y, value=0.5),
    lambda x, y: torch.lerp(x, y, 0.3),
    lambda x, y: F.silu(x) * y,
    lambda x, y: x + F.interpolate(y, x.shape[2:]),
    lambda x, y: torch.cat([x[:, :1], y[:, 1:]], 1),
    torch.atan2,
)


@step
def binary(b, r):
    i = b.pick(r)
    j, f = b.pick(r), r.choice(BINARY)
    if r.random() < 0.6:  # of one shape, where there is such a value
        same = [k for k, t in enumerate(b.v) if isinstance(t, Tensor) and t.shape == b.v[i].shape and k != i]
        j = r.choice(same) if same else j
        b._read.append(j)
    return lambda s, v: f(v[i], v[j])


# ---- steps: constants ----------------------------------------------------------------------------------------------


@step
def constant(b, r):
    """A parameter, buffer or attribute, or arithmetic of some, as an operand."""
    i = b.pick(r, 4, 2, where=lambda t: t.numel())
    if i is None:
        return None
    C, d = b.v[i].shape[1], b.v[i].dtype
    shape = (
        r.choice([(C,), (1,), ()])
        if b.v[i].dim() == 2
        else r.choice([(1, C, 1, 1), (C, 1, 1), (), (1,), (1, 1, 1, 1), tuple(b.v[i].shape[1:])])
    )
    name, more = (b.constant(r, torch.randn(shape, dtype=d) + k) for k in (1, 0))
    forms: list[Callable[[Any, Tensor], Any]] = [
        lambda s, x: x * getattr(s, name),
        lambda s, x: getattr(s, name) + x,
        lambda s, x: x - getattr(s, name),
        lambda s, x: x / (getattr(s, name).abs() + 1),
        lambda s, x: x * getattr(s, name) + getattr(s, more),
        lambda s, x: x * getattr(s, name).exp().clamp(max=2),
        lambda s, x: x + (getattr(s, name) - getattr(s, more)),
        lambda s, x: x * torch.sigmoid(getattr(s, name)),
        lambda s, x: getattr(s, name) - x,
        lambda s, x: torch.addcmul(getattr(s, more), x, getattr(s, name)),
        lambda s, x: x * F.softmax(getattr(s, name), 0),
        lambda s, x: torch.cat([x, getattr(s, name).expand_as(x)], 1),
        lambda s, x: x.mul_(getattr(s, name)),
        lambda s, x: torch.cat([getattr(s, name).expand_as(x), x], 1) * getattr(s, more),
        lambda s, x: (x + getattr(s, name)) * getattr(s, more).to(torch.float32),
    ]
    f = r.choice(forms)
    return lambda s, v: f(s, v[i])


@step
def made_constant(b, r):
    """Tensors that forward makes."""
    i = b.pick(r, 4)
    forms: list[Callable[[Tensor], Any]] = [
        lambda x: x + torch.linspace(-1, 1, x.shape[3], dtype=x.dtype),
        lambda x: x * torch.tensor(0.5),
        lambda x: torch.cat([x, torch.zeros(len(x), 1, *x.shape[2:], dtype=x.dtype)], 1),
        lambda x: x * torch.arange(x.shape[1], device=x.device).view(-1, 1, 1) / 8,
        lambda x: x + x.new_ones(x.shape[1:]),
        lambda x: x * torch.eye(x.shape[2], x.shape[3], dtype=x.dtype),
        lambda x: x + torch.full_like(x[:1], 0.25),
        lambda x: (
            (x - torch.tensor([0.4] * x.shape[1]).view(1, -1, 1, 1)) / torch.tensor([0.2] * x.shape[1])[:, None, None]
        ),
    ]
    f = r.choice(forms)
    return lambda s, v: f(v[i])


@step
def computed_weight(b, r):
    i = b.pick(r, 4, where=lambda t: t.dtype == b.dtype)
    if i is None:
        return None
    C = b.v[i].shape[1]
    name, bias = b.constant(r, torch.randn(4, C, 3, 3, dtype=b.dtype)), b.constant(r, torch.randn(4, dtype=b.dtype))
    form = r.randrange(5)

    def run(s, v):
        w = getattr(s, name)
        if form == 0:
            w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        elif form == 1:
            w = w * torch.sigmoid(getattr(s, bias))[:, None, None, None]
        elif form == 2:
            w = w + F.pad(w[:, :, 1:2, 1:2], (1, 1, 1, 1))
        elif form == 3:
            w = w * v[i].mean()
        else:
            w = w[:, :, 1:, :].flip(-1)
        return F.conv2d(v[i], w, getattr(s, bias) * 2, padding=1)

    return run


# ---- steps: statements ---------------------------------------------------------------------------------------------

WRITES: tuple[Callable[[Tensor], Any], ...] = (
    lambda x: x.relu_(),
    lambda x: x.mul_(0.5),
    lambda x: x.add_(1),
    lambda x: F.relu(x, inplace=True),
    torch.sigmoid_,
    lambda x: x.clamp_(-1, 1),
    lambda x: x[:, 0].zero_(),
    lambda x: x[:, :1].mul_(2),
    lambda x: x.select(-1, 0).fill_(1),
    lambda x: x.zero_(),
    lambda x: x.neg_(),
    lambda x: x.add_(x.clone()),
    lambda x: x.sub_(x.mean()),
    lambda x: x.copy_(-x),
    lambda x: x[..., ::2].add_(1),
    lambda x: x.permute(*range(x.dim() - 1, -1, -1)).mul_(3),
    lambda x: x.chunk(2, 1)[0].neg_(),
    lambda x: torch.tanh(x, out=x),
    lambda x: x.masked_fill_(x > 1, 0.5),
    lambda x: x.view(-1)[1:].abs_(),
    lambda x: F.hardswish(x, inplace=True),
    lambda x: F.silu(x, inplace=True),
    lambda x: F.leaky_relu_(x, 0.1),
    lambda x: F.dropout(x, 0.5, False, inplace=True),
    lambda x: x.t_() if x.dim() == 2 else x.unsqueeze_(0),
    lambda x: x.transpose(0, 1).add_(0.5),
    lambda x: x[:, 1:].copy_(x[:, :-1].clone()),
    lambda x: x.index_fill_(1, torch.tensor([0]), 2),
)


@step
def write(b, r):
    i, f = b.pick(r), r.choice(WRITES)
    copied = i is not None and (i < b.arguments) and r.random() < 0.9
    if copied:  # what writes to an argument is not captured: mostly to a copy of it

        def run(s, v):
            y = v[i].clone()
            f(y)
            return y

        return run

    def write(s, v):
        f(v[i])
        return ()

    return write


@step
def assignment(b, r):
    i = b.pick(r, 4)
    form = r.randrange(6)

    def run(s, v):
        y = v[i] * 1
        if form == 0:
            y[:, 0] = 0
        elif form == 1:
            y[:, ::2] += 1
        elif form == 2:
            y[:, 1:] = v[i][:, :-1]
        elif form == 3:
            y[y < 0] = 0
        elif form == 4:
            y[..., 0], y[..., -1] = y[..., -1].clone(), y[..., 0].clone()
        else:
            a, c = y.chunk(2, 1)
            a += c
            c *= a
        return y

    return run


@step
def condition(b, r):
    """Control flow that depends on no values."""
    i, form = b.pick(r), r.randrange(5)

    def run(s, v):
        x = v[i]
        if form == 0:
            return x * 2 if x.shape[0] > 1 else x - 1
        if form == 1:
            return x.relu() if isinstance(x, Tensor) and x.dim() == 4 else x
        if form == 2:
            for _ in range(min(x.shape[-1], 3)):
                x = x * 0.9 + 0.1
            return x
        if form == 3:
            return F.pad(x, (0, x.shape[-1] % 2)) if x.is_contiguous() else x.contiguous()
        return x if torch.is_grad_enabled() or s.training else x.abs()

    return run


@step
def side_effect(b, r):
    """What no plan repeats: the given model must run."""
    i, form = b.pick(r), r.randrange(24)  # mostly none of them
    if form == 0:
        return lambda s, v: F.dropout(v[i], 0.5)
    if form == 1:
        name = b.constant(r, torch.zeros(3))

        def run(s, v):
            getattr(s, name).data.add_(1)
            return v[i] * getattr(s, name)[0]

        return run
    if form == 2:

        def count(s, v):
            s.calls += 1
            return v[i] * s.calls

        return count
    if form == 3:
        return lambda s, v: v[i] * 2 if v[i].sum() > 0 else v[i] - 1
    return lambda s, v: v[i] + 0.5
