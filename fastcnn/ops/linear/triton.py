"""linear in Triton: a 1x1 convolution of N images of one pixel, with split-K where the batch is small."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fastcnn.backends.triton import backend as triton_backend
from fastcnn.backends.triton.target import target_of
from fastcnn.core.candidate import Runner
from fastcnn.core.packing import packed
from fastcnn.ops.conv2d.contract import Conv2dProblem
from fastcnn.ops.linear.contract import LinearProblem

if TYPE_CHECKING:
    from fastcnn.ops.conv2d.triton_launch import Conv2d


def as_conv2d(p: LinearProblem) -> Conv2dProblem:
    """The same sums as a 1x1 convolution."""
    return Conv2dProblem(
        device=p.device, dtype=p.dtype, N=p.N, H=1, W=1, C=p.D, K=p.M, R=1, S=1, P=1, Q=1,
        stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1,
        activation=p.activation, has_bias=p.has_bias, has_residual=False,
        x_stride=p.D, residual_stride=0, y_stride=p.M, threads=p.threads,
    )  # fmt: skip


def _supports(problem: LinearProblem) -> str | None:
    if not problem.plain:
        return "weight is not (out_features, in_features) or bias is not (out_features,)"
    if problem.D == 0 or problem.M == 0:
        return "there are no features"
    return None


def _kernel(problem: LinearProblem) -> Conv2d:
    from fastcnn.ops.conv2d.triton_launch import Conv2d

    tf32 = triton_backend.tf32_allowed("matmul")
    return Conv2d(as_conv2d(problem), target_of(problem.device), allow_tf32=tf32)


def _prepare(problem: LinearProblem) -> Runner:
    kernel = _kernel(problem)

    def pack(weight: Tensor) -> Tensor:
        return kernel.pack(weight[:, :, None, None])

    def run(input: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
        b = None if bias is None else bias.contiguous()
        y = problem.empty_output(input)
        w = packed(weight, kernel.pack_key, pack)
        kernel(input.contiguous(), w, b, None, y)
        return y

    return run


def _note(problem: LinearProblem) -> str:
    return str(_kernel(problem))


CANDIDATES = (triton_backend.candidate("linear", "implicit_gemm", _prepare, _supports, _note, "matmul"),)
