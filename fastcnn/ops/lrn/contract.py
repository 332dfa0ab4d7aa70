"""The contract of local_response_norm: arguments, output shape, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
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


def saved(tensors: Sequence[Any], output: Tensor) -> Sequence[Any]:
    return (tensors[0],)


def window_sum(x: Tensor, before: int, after: int) -> Tensor:
    """sum of x[c - before .. c + after] over channels, zero outside."""
    N, C, H, W = x.shape
    if x.numel() == 0:
        return x
    padded = F.pad(x, (0, 0, 0, 0, before, after)).reshape(N, 1, C + before + after, H, W)
    return F.avg_pool3d(padded, (before + after + 1, 1, 1), stride=1, divisor_override=1).reshape(x.shape)


def backward(ctx: Any, grad: Tensor, size: int, alpha: float, beta: float, k: float) -> Any:
    # y = x s^-beta with s = k + alpha/size sum x^2, so
    # dx = g s^-beta - 2 alpha beta / size * x * (sum over the mirrored window of g x s^(-beta - 1)).
    (x,) = ctx.saved_tensors
    dtype = x.dtype
    if dtype in (torch.float16, torch.bfloat16):
        x, grad = x.float(), grad.float()
    before, after = size // 2, (size - 1) // 2
    s = k + alpha / size * window_sum(x * x, before, after)
    power = s.pow(-beta)
    dx = grad * power - (2 * alpha * beta / size) * x * window_sum(grad * x * power / s, after, before)
    return (dx.to(dtype),)
