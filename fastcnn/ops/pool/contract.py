"""The contracts of max_pool2d, avg_pool2d and adaptive_avg_pool2d: arguments, output shape, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.core import checks, layout

MAX_SCHEMA = (
    "max_pool2d(Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "bool ceil_mode) -> Tensor"
)
AVG_SCHEMA = (
    "avg_pool2d(Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, bool ceil_mode, "
    "bool count_include_pad, SymInt? divisor_override) -> Tensor"
)
ADAPTIVE_SCHEMA = "adaptive_avg_pool2d(Tensor input, SymInt[] output_size) -> Tensor"

Pair = tuple[int, int]


class Pool2dProblem(NamedTuple):
    device: torch.device
    dtype: torch.dtype
    mode: str  # "max" or "average"
    N: int
    H: int
    W: int
    C: int
    P: int
    Q: int
    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool
    count_include_pad: bool
    divisor_override: int | None
    x_stride: int
    y_stride: int | None
    threads: int
    in_place: bool = False  # kernels can read every input where it is

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.P, self.Q

    def empty_output(self, like: Tensor) -> Tensor:
        return layout.empty(self.output_shape, like)

    def summary(self) -> str:
        return (
            f"{self.N}x{self.C}x{self.H}x{self.W}, {self.mode}, kernel_size {self.kernel_size}, stride {self.stride}, "
            f"padding {self.padding}, {str(self.dtype).removeprefix('torch.')} on {self.device}"
        )


class AdaptiveAvgPool2dProblem(NamedTuple):
    device: torch.device
    dtype: torch.dtype
    N: int
    H: int
    W: int
    C: int
    P: int
    Q: int
    x_stride: int
    y_stride: int | None
    threads: int
    in_place: bool = False  # kernels can read every input where it is

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.P, self.Q

    def empty_output(self, like: Tensor) -> Tensor:
        return layout.empty(self.output_shape, like)

    def summary(self) -> str:
        return (
            f"{self.N}x{self.C}x{self.H}x{self.W} -> {self.P}x{self.Q}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        )


def _window(op: str, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Pair, Pair, Pair, Pair]:
    kernel = checks.pair(op, "kernel_size", kernel_size, 1)
    # PyTorch reads a missing stride, given as None or as an empty list, as the kernel size.
    steps = kernel if stride is None or stride == () else checks.pair(op, "stride", stride, 1)
    pads = checks.pair(op, "padding", padding, 0)
    spread = checks.pair(op, "dilation", dilation, 1)
    for pad, size, d in zip(pads, kernel, spread, strict=True):
        if pad > (d * (size - 1) + 1) // 2:
            raise ValueError(
                f"{op}: padding is {pads}; at most half of the window is allowed "
                f"(kernel_size {kernel}, dilation {spread})"
            )
    return kernel, steps, pads, spread


def normalise_max(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
    kernel_size, stride, padding, dilation, ceil_mode = params
    window = _window("max_pool2d", kernel_size, stride, padding, dilation)
    return *window, checks.flag("max_pool2d", "ceil_mode", ceil_mode)


def normalise_avg(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override = params
    kernel, steps, pads, _ = _window("avg_pool2d", kernel_size, stride, padding, 1)
    if divisor_override is not None:
        divisor_override = checks.integer("avg_pool2d", "divisor_override", divisor_override, -checks.MAX_INT)
        if divisor_override == 0:
            raise ValueError("avg_pool2d: divisor_override is 0; None or a non-zero int is needed")
    return (
        kernel, steps, pads,
        checks.flag("avg_pool2d", "ceil_mode", ceil_mode),
        checks.flag("avg_pool2d", "count_include_pad", count_include_pad),
        divisor_override,
    )  # fmt: skip


def normalise_adaptive(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
    op, (size,) = "adaptive_avg_pool2d", params
    (input,) = tensors[:1]
    checks.tensor(op, "input", input)
    checks.rank(op, "input", input, (4,))
    if not isinstance(size, Sequence):
        size = (size, size)
    if len(size) not in (1, 2):
        raise ValueError(f"{op}: output_size has {len(size)} elements: {tuple(size)}; an int or two ints are needed")
    if len(size) == 1:
        size = (size[0], size[0])
    return (
        tuple(input.shape[2 + i] if s is None else checks.integer(op, "output_size", s, 0) for i, s in enumerate(size)),
    )


def pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows fit; with ceil_mode a last one may overhang, if it starts inside the image or its padding."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count


def _infer(op: str, mode: str, tensors: Sequence[Any], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair,
           ceil_mode: bool, count_include_pad: bool, divisor_override: int | None) -> Pool2dProblem:  # fmt: skip
    input, out = tensors
    checks.tensor(op, "input", input)
    checks.rank(op, "input", input, (4,))
    checks.nonempty(op, "input", input)
    N, C, H, W = input.shape
    P, Q = (
        pooled_size(size, kernel[i], stride[i], padding[i], dilation[i], ceil_mode) for i, size in enumerate((H, W))
    )
    if P < 1 or Q < 1:
        raise ValueError(
            f"{op}: the window (kernel_size {kernel}, dilation {dilation}) is larger than the padded input "
            f"({H}x{W}, padding {padding}): the output would be {P}x{Q}"
        )
    checks.output_size(op, (N, C, P, Q))
    checks.out(op, out, ("input", input), (N, C, P, Q))
    return Pool2dProblem(
        input.device, input.dtype, mode, N, H, W, C, P, Q, kernel, stride, padding, dilation,
        ceil_mode, count_include_pad, divisor_override,
        layout.input_stride(input), layout.output_stride(out, C, input), torch.get_num_threads(),
        layout.pixel_stride(input) is not None,
    )  # fmt: skip


def infer_max(tensors: Sequence[Any], params: tuple[Any, ...]) -> Pool2dProblem:
    kernel, stride, padding, dilation, ceil_mode = params
    return _infer("max_pool2d", "max", tensors, kernel, stride, padding, dilation, ceil_mode, False, None)


def infer_avg(tensors: Sequence[Any], params: tuple[Any, ...]) -> Pool2dProblem:
    kernel, stride, padding, ceil_mode, count_include_pad, divisor = params
    return _infer(
        "avg_pool2d",
        "average",
        tensors,
        kernel,
        stride,
        padding,
        (1, 1),
        ceil_mode,
        count_include_pad,
        divisor,
    )


def infer_adaptive(tensors: Sequence[Any], params: tuple[Any, ...]) -> AdaptiveAvgPool2dProblem:
    op, (input, out), ((P, Q),) = "adaptive_avg_pool2d", tensors, params
    checks.tensor(op, "input", input)
    checks.rank(op, "input", input, (4,))
    checks.nonempty(op, "input", input)
    N, C, H, W = input.shape
    checks.output_size(op, (N, C, P, Q))
    checks.out(op, out, ("input", input), (N, C, P, Q))
    return AdaptiveAvgPool2dProblem(
        input.device, input.dtype, N, H, W, C, P, Q,
        layout.input_stride(input), layout.output_stride(out, C, input), torch.get_num_threads(),
        layout.pixel_stride(input) is not None,
    )  # fmt: skip


def saved(tensors: Sequence[Any], output: Tensor, params: tuple[Any, ...]) -> Sequence[Any]:
    return (tensors[0],)
