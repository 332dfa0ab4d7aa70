"""The activations that an epilogue may apply: everything Python knows of each stands in one row of `TABLE`.

From it come the checks of arguments, the reference, gradients, the Triton kernels' form, what `optimize` recognises,
the table in docs/activations.md and the tests. csrc/base/activation_list.h has the same rows for the CPU and for CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten

# LeNet-5's squashing function, A * tanh(S * a) (LeCun et al. 1998, appendix A): its slope is close to 1 at 0
# and f(1) = 1.
TANH_A, TANH_S = 1.7159, 2.0 / 3.0


@dataclass(frozen=True)
class Activation:
    """A function of one number, applied to every element.

    name: what `activation=` takes.
    formula: of x, for people.
    apply: the definition, in PyTorch operators.
    gradient: grad * f'(x), from grad and from f(x), or where `needs` says so from x.
    triton: statements that replace the float32 block `a` by f(a); they may call what
        fastcnn/backends/triton/common.py defines.
    needs: what the gradient is computed from. A kernel writes f(x) alone, so where x is needed it is computed again.
    increasing: f keeps order, so that a maximum may be taken before it as well as after it.
    aten: PyTorch's operators that mean it, each with the arguments it must have.
    """

    name: str
    formula: str
    apply: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]
    triton: str
    needs: Literal["output", "input"] = "output"
    increasing: bool = True
    aten: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _scaled_tanh_gradient(grad: Tensor, y: Tensor) -> Tensor:
    t = y / TANH_A
    return grad * (TANH_A * TANH_S * (1 - t * t))


TABLE: dict[str, Activation] = {
    row.name: row
    for row in (
        Activation(
            "relu", "max(x, 0)", torch.relu,
            lambda grad, y: aten.threshold_backward(grad, y, 0),
            triton="a = relu(a)",
            aten={"relu": {}},
        ),
        Activation(
            "sigmoid", "1 / (1 + e^-x)", torch.sigmoid,
            lambda grad, y: grad * (y * (1 - y)),
            triton="a = 1.0 / (1.0 + tl.exp(-a))",
            aten={"sigmoid": {}},
        ),
        Activation(
            "tanh", "tanh x", torch.tanh,
            lambda grad, y: grad * (1 - y * y),
            triton="a = tanh(a)",
            aten={"tanh": {}},
        ),
        Activation(
            "scaled_tanh", "1.7159 tanh(2/3 x)", lambda x: TANH_A * torch.tanh(TANH_S * x),
            _scaled_tanh_gradient,
            triton="a = 1.7159 * tanh(a * (2.0 / 3.0))",
        ),
        Activation(
            "relu6", "min(max(x, 0), 6)", F.relu6,
            lambda grad, y: grad * ((y > 0) & (y < 6)),
            triton="a = relu6(a)",
            aten={"relu6": {}, "hardtanh": {"min_val": 0, "max_val": 6}},
        ),
        Activation(
            "leaky_relu", "max(x, 0.01 x)", F.leaky_relu,
            lambda grad, y: aten.leaky_relu_backward(grad, y, 0.01, True),
            triton="a = tl.where(a > 0, a, 0.01 * a)",
            aten={"leaky_relu": {"negative_slope": 0.01}},
        ),
        Activation(
            "elu", "x where x > 0, else e^x - 1", F.elu,
            lambda grad, y: aten.elu_backward(grad, 1, 1, 1, True, y),
            triton="half = tanh(0.5 * tl.where(a > 0, 0.0, a))\na = tl.where(a > 0, a, 2.0 * half / (1.0 - half))",
            aten={"elu": {"alpha": 1, "scale": 1, "input_scale": 1}},
        ),
        Activation(
            "hardsigmoid", "min(max(x + 3, 0), 6) / 6", F.hardsigmoid,
            lambda grad, y: grad * ((y > 0) & (y < 1)) / 6,
            triton="a = relu6(a + 3.0) / 6.0",
            aten={"hardsigmoid": {}},
        ),
        Activation(
            "hardswish", "x min(max(x + 3, 0), 6) / 6", F.hardswish,
            aten.hardswish_backward,
            triton="a = a * (relu6(a + 3.0) / 6.0)",
            needs="input", increasing=False, aten={"hardswish": {}},
        ),
        Activation(
            "silu", "x / (1 + e^-x)", F.silu,
            aten.silu_backward,
            triton="a = a / (1.0 + tl.exp(-a))",
            needs="input", increasing=False, aten={"silu": {}},
        ),
        Activation(
            "gelu", "x / 2 (1 + erf(x / √2))", F.gelu,
            lambda grad, x: aten.gelu_backward(grad, x),
            triton="a = 0.5 * a * (1.0 + tl.erf(a * 0.7071067811865476))",
            needs="input", increasing=False, aten={"gelu": {"approximate": "none"}},
        ),
        Activation(
            "gelu_tanh", "x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³)))", lambda x: F.gelu(x, approximate="tanh"),
            lambda grad, x: aten.gelu_backward(grad, x, approximate="tanh"),
            triton="a = a / (1.0 + tl.exp(a * (-1.5957691216057308 - 0.0713548162726009 * a * a)))",
            needs="input", increasing=False, aten={"gelu": {"approximate": "tanh"}},
        ),
        Activation(
            "mish", "x tanh(ln(1 + e^x))", F.mish,
            aten.mish_backward,
            triton="e = tl.exp(tl.where(a > 20, 20.0, a))\na = a * (e * (e + 2.0) / (e * (e + 2.0) + 2.0))",
            needs="input", increasing=False, aten={"mish": {}},
        ),
    )
}  # fmt: skip

NAMES: tuple[str | None, ...] = (None, *TABLE)


def named(activation: str) -> Activation:
    """The activation of that name. Raises ValueError, with the names there are, for another."""
    try:
        return TABLE[activation]
    except (KeyError, TypeError):
        raise ValueError(f"unknown activation {activation!r}; allowed: {', '.join(map(repr, NAMES))}") from None


def apply(activation: str | None, x: Tensor) -> Tensor:
    """act(x) in PyTorch operators; x itself for None."""
    return x if activation is None else named(activation).apply(x)


def gradient(activation: str | None, grad: Tensor, output: Tensor | None, before: Callable[[], Tensor]) -> Tensor:
    """grad * act'(x), where output = act(x) and before() computes x."""
    if activation is None:
        return grad
    row = named(activation)
    if row.needs == "input":
        return row.gradient(grad, before())
    assert output is not None
    return row.gradient(grad, output)


def needs(activation: str | None) -> Literal["output", "input"] | None:
    """What the gradient is computed from; None where there is no activation."""
    return None if activation is None else named(activation).needs


def increasing(activation: str | None) -> bool:
    """Whether max(act(a), act(b)) = act(max(a, b))."""
    return activation is None or named(activation).increasing


def recognised(op: str, arguments: Mapping[str, Any]) -> str | None:
    """The activation that a call of PyTorch's operator `op` means, given its arguments beside the input; else None."""
    for row in TABLE.values():
        if op in row.aten:
            schema = getattr(aten, op).default._schema
            given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()} | dict(arguments)
            if all(given[name] == value for name, value in row.aten[op].items()):
                return row.name
    return None
