"""The contract of rbf, LeNet-5's output units: arguments, output shape, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.core import checks

SCHEMA = "rbf(Tensor input, Tensor centers) -> Tensor"


class RbfProblem(NamedTuple):
    device: torch.device
    dtype: torch.dtype
    N: int
    D: int
    M: int
    y_stride: int | None
    threads: int
    in_place: bool = False  # kernels can read every input where it is

    @property
    def output_shape(self) -> tuple[int, int]:
        return self.N, self.M

    def empty_output(self, like: Tensor) -> Tensor:
        return like.new_empty(self.output_shape)

    def summary(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.N}x{self.D} against {self.M} centers, {dtype} on {self.device}"


def normalise(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
    return ()


def infer(tensors: Sequence[Any], params: tuple[Any, ...]) -> RbfProblem:
    input, centers, out = tensors
    checks.tensor("rbf", "input", input)
    checks.tensor("rbf", "centers", centers)
    checks.rank("rbf", "input", input, (2,))
    checks.rank("rbf", "centers", centers, (2,))
    checks.same_dtype_and_device("rbf", ("input", input), ("centers", centers))
    if input.shape[1] != centers.shape[1]:
        raise ValueError(f"rbf: centers have {centers.shape[1]} features, input has {input.shape[1]}")
    checks.output_size("rbf", (input.shape[0], centers.shape[0]))
    N, D = input.shape
    return RbfProblem(
        input.device, input.dtype, N, D, centers.shape[0],
        None if out is not None else centers.shape[0], torch.get_num_threads(),
        input.is_contiguous() and centers.is_contiguous(),
    )  # fmt: skip


def saved(tensors: Sequence[Any], output: Tensor, params: tuple[Any, ...]) -> Sequence[Any]:
    return tensors


def backward(ctx: Any, grad: Tensor) -> Any:
    # dx = 2 sum_m g (x - c), dc = -2 sum_n g (x - c)
    input, centers = ctx.saved_tensors
    return (
        2 * (grad.sum(1, keepdim=True) * input - grad @ centers),
        2 * (grad.sum(0)[:, None] * centers - grad.t() @ input),
    )
