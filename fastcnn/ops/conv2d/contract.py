"""The contract of conv2d: arguments, output shape, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.core import activations, checks, layout

SCHEMA = (
    "conv2d(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, SymInt[] stride, SymInt[] padding, "
    "SymInt[] dilation, SymInt groups, str? activation) -> Tensor"
)


class Conv2dProblem(NamedTuple):
    """One convolution, as csrc/base/problem.h names it, with what dispatch needs beside it."""

    device: torch.device
    dtype: torch.dtype
    N: int
    H: int
    W: int
    C: int
    K: int
    R: int
    S: int
    P: int
    Q: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, bottom, left, right
    dilation: tuple[int, int]
    groups: int
    activation: str | None
    has_bias: bool
    has_residual: bool
    x_stride: int
    residual_stride: int
    y_stride: int | None  # None: `out` is not a channels_last view that a kernel can write in place
    threads: int
    in_place: bool = False  # kernels can read every input where it is

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.K, self.P, self.Q

    @property
    def flops(self) -> int:
        return 2 * self.N * self.P * self.Q * self.K * (self.C // self.groups) * self.R * self.S

    def empty_output(self, like: Tensor) -> Tensor:
        return layout.empty(self.output_shape, like)

    def summary(self) -> str:
        text = f"{self.N}x{self.C}x{self.H}x{self.W} -> {self.K}, {self.R}x{self.S}"
        for name, value, default in (
            ("stride", self.stride, (1, 1)),
            ("padding", self.padding, (0, 0, 0, 0)),
            ("dilation", self.dilation, (1, 1)),
            ("groups", self.groups, 1),
            ("activation", self.activation, None),
        ):
            if value != default:
                text += f", {name} {value}"
        text += ", bias" * self.has_bias + ", residual" * self.has_residual
        return f"{text}, {str(self.dtype).removeprefix('torch.')} on {self.device}"


def normalise(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
    _, weight, *_ = tensors
    stride, padding, dilation, groups, activation = params
    checks.tensor("conv2d", "weight", weight)
    checks.rank("conv2d", "weight", weight, (4,))
    stride = checks.pair("conv2d", "stride", stride, 1)
    dilation = checks.pair("conv2d", "dilation", dilation, 1)
    groups = checks.integer("conv2d", "groups", groups, 1)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"conv2d: unknown padding {padding!r}; allowed: 'same', 'valid', an int or two ints")
        if padding == "same" and stride != (1, 1):
            raise ValueError(f"conv2d: padding 'same' needs stride 1, stride is {stride}")
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        padding = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    elif isinstance(padding, Sequence) and len(padding) == 4:
        padding = tuple(checks.integer("conv2d", "padding", p, 0) for p in padding)
    else:
        vertical, horizontal = checks.pair("conv2d", "padding", padding, 0)
        padding = (vertical, vertical, horizontal, horizontal)
    return stride, padding, dilation, groups, checks.activation("conv2d", activation)


def infer(tensors: Sequence[Any], params: tuple[Any, ...]) -> Conv2dProblem:
    input, weight, bias, residual, out = tensors
    stride, padding, dilation, groups, activation = params
    checks.tensor("conv2d", "input", input)
    checks.tensor("conv2d", "weight", weight)
    checks.tensor("conv2d", "bias", bias, optional=True)
    checks.tensor("conv2d", "residual", residual, optional=True)
    checks.rank("conv2d", "input", input, (4,))
    checks.rank("conv2d", "weight", weight, (4,))
    checks.same_dtype_and_device("conv2d", ("input", input), ("weight", weight), ("bias", bias), ("residual", residual))
    N, C, H, W = input.shape
    K, C_group, R, S = weight.shape
    checks.nonempty("conv2d", "input", input)
    checks.nonempty("conv2d", "weight", weight, (0, 1, 2, 3))
    if C_group * groups != C:
        raise ValueError(f"conv2d: weight has {C_group} input channels, input has {C} (groups={groups})")
    if K % groups:
        raise ValueError(f"conv2d: weight has {K} output channels, not a multiple of groups={groups}")
    if bias is not None and tuple(bias.shape) != (K,):
        raise ValueError(
            f"conv2d: bias has shape {checks.shape(bias)}; weight has {K} output channels: ({K},) is needed"
        )
    sizes = []
    for axis, size, kernel, pad, step, spread in (
        ("height", H, R, padding[0] + padding[1], stride[0], dilation[0]),
        ("width", W, S, padding[2] + padding[3], stride[1], dilation[1]),
    ):
        extent = spread * (kernel - 1) + 1
        if size + pad < extent:
            raise ValueError(
                f"conv2d: the kernel spans {extent} in {axis}, "
                f"the padded input only {size + pad} ({size} + {pad} padding)"
            )
        sizes.append((size + pad - extent) // step + 1)
    P, Q = sizes
    checks.output_size("conv2d", (N, K, P, Q))
    if residual is not None and tuple(residual.shape) != (N, K, P, Q):
        raise ValueError(f"conv2d: residual has shape {checks.shape(residual)}; the output has shape {(N, K, P, Q)}")
    checks.out("conv2d", out, ("input", input), (N, K, P, Q))
    return Conv2dProblem(
        device=input.device,
        dtype=input.dtype,
        N=N, H=H, W=W, C=C, K=K, R=R, S=S, P=P, Q=Q,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        activation=activation,
        has_bias=bias is not None,
        has_residual=residual is not None,
        x_stride=layout.input_stride(input),
        residual_stride=0 if residual is None else layout.input_stride(residual),
        y_stride=layout.output_stride(out, K, input, weight, bias, residual),
        threads=torch.get_num_threads(),
        in_place=all(layout.pixel_stride(t) is not None for t in (input, residual) if t is not None)
        and (bias is None or bias.is_contiguous()),
    )  # fmt: skip


def saved(tensors: Sequence[Any], output: Tensor, params: tuple[Any, ...]) -> Sequence[Any]:
    """input, weight, and of bias, residual and output what the activation's gradient needs."""
    input, weight, bias, residual = tensors
    needs = activations.needs(params[-1])
    before = (bias, residual) if needs == "input" else (None, None)
    return input, weight, *before, output if needs == "output" else None


def tuning_key(p: Conv2dProblem, tf32: bool) -> str:
    """A layer's name in tuning files; a linear layer is a 1x1 convolution of images of one pixel.

    Strides in memory and the epilogue are left out: they change the time, hardly the choice.
    """
    dtype = "tf32" if tf32 and p.dtype == torch.float32 else str(p.dtype).removeprefix("torch.")
    return (
        f"conv2d {dtype} n{p.N} {p.H}x{p.W}x{p.C} k{p.K} {p.R}x{p.S} stride {p.stride[0]}x{p.stride[1]} "
        f"pad {'x'.join(map(str, p.padding))} dilation {p.dilation[0]}x{p.dilation[1]} groups {p.groups}"
    )
