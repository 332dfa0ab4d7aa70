"""The contract of local_response_norm: arguments, output shape, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.core import checks, layout

NAME = "local_response_norm"
SCHEMA = f"{NAME}(Tensor input, SymInt size, float alpha, float beta, float k) -> Tensor"


class LrnProblem(NamedTuple):
    device: torch.device
    dtype: torch.dtype
    N: int
    H: int
    W: int
    C: int
    size: int
    alpha: float
    beta: float
    k: float
    x_stride: int
    y_stride: int | None
    threads: int
    in_place: bool = False  # kernels can read every input where it is

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.H, self.W

    def empty_output(self, like: Tensor) -> Tensor:
        return layout.empty(self.output_shape, like)

    def summary(self) -> str:
        return (
            f"{self.N}x{self.C}x{self.H}x{self.W}, size {self.size}, alpha {self.alpha}, beta {self.beta}, k {self.k}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        )


def normalise(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
    size, alpha, beta, k = params
    return (
        checks.integer(NAME, "size", size, 1),
        checks.real(NAME, "alpha", alpha),
        checks.real(NAME, "beta", beta),
        checks.real(NAME, "k", k),
    )


def infer(tensors: Sequence[Any], params: tuple[Any, ...]) -> LrnProblem:
    input, out = tensors
    size, alpha, beta, k = params
    checks.tensor(NAME, "input", input)
    checks.rank(NAME, "input", input, (4,))
    checks.out(NAME, out, ("input", input), input.shape)
    N, C, H, W = input.shape
    return LrnProblem(
        input.device, input.dtype, N, H, W, C, size, alpha, beta, k,
        layout.input_stride(input), layout.output_stride(out, C, input), torch.get_num_threads(),
        layout.pixel_stride(input) is not None,
    )  # fmt: skip


def saved(tensors: Sequence[Any], output: Tensor, params: tuple[Any, ...]) -> Sequence[Any]:
    return (tensors[0],)
