"""The contract of subsample2d, LeNet-5's trainable pooling: arguments, output shape, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.core import activations, checks, layout

SCHEMA = "subsample2d(Tensor input, Tensor coefficient, Tensor bias, SymInt kernel_size, str? activation) -> Tensor"


class Subsample2dProblem(NamedTuple):
    device: torch.device
    dtype: torch.dtype
    N: int
    H: int
    W: int
    C: int
    P: int
    Q: int
    kernel_size: int
    activation: str | None
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
            f"{self.N}x{self.C}x{self.H}x{self.W}, kernel_size {self.kernel_size}, activation {self.activation}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        )


def normalise(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
    kernel_size, activation = params
    return (
        checks.integer("subsample2d", "kernel_size", kernel_size, 1),
        checks.activation("subsample2d", activation),
    )


def infer(tensors: Sequence[Any], params: tuple[Any, ...]) -> Subsample2dProblem:
    op, (input, coefficient, bias, out), (kernel_size, activation) = "subsample2d", tensors, params
    checks.tensor(op, "input", input)
    checks.tensor(op, "coefficient", coefficient)
    checks.tensor(op, "bias", bias)
    checks.rank(op, "input", input, (4,))
    checks.same_dtype_and_device(op, ("input", input), ("coefficient", coefficient), ("bias", bias))
    checks.nonempty(op, "input", input)
    N, C, H, W = input.shape
    for name, value in (("coefficient", coefficient), ("bias", bias)):
        if tuple(value.shape) != (C,):
            raise ValueError(f"{op}: {name} has shape {checks.shape(value)}; input has {C} channels: ({C},) is needed")
    P, Q = H // kernel_size, W // kernel_size
    if P < 1 or Q < 1:
        raise ValueError(f"{op}: kernel_size is {kernel_size}, larger than the input ({H}x{W})")
    checks.out(op, out, ("input", input), (N, C, P, Q))
    return Subsample2dProblem(
        input.device, input.dtype, N, H, W, C, P, Q, kernel_size, activation,
        layout.input_stride(input), layout.output_stride(out, C, input, coefficient, bias), torch.get_num_threads(),
        layout.pixel_stride(input) is not None and coefficient.is_contiguous() and bias.is_contiguous(),
    )  # fmt: skip


def saved(tensors: Sequence[Any], output: Tensor, params: tuple[Any, ...]) -> Sequence[Any]:
    input, coefficient, bias = tensors
    return input, coefficient, bias, output if activations.needs(params[-1]) == "output" else None
