"""conv2d in Triton: implicit GEMM, its tile chosen by a static cost model or by tuning."""

from __future__ import annotations

import torch
from torch import Tensor

from fastcnn.dispatch import Runner
from fastcnn.ops import layout, triton_backend
from fastcnn.ops.conv2d.contract import Conv2dProblem
from fastcnn.ops.packing import packed


def _prepare(problem: Conv2dProblem) -> Runner:
    from fastcnn.ops.conv2d.triton_launch import Conv2d
    from fastcnn.ops.triton_common import target_of

    # The user may change the precision between calls, so each has its kernel.
    kernels: dict[bool, Conv2d] = {}
    target, shape = target_of(problem.device), problem.output_shape

    def run(input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor | None) -> Tensor:
        tf32 = triton_backend.tf32_allowed("conv")
        kernel = kernels.get(tf32)
        if kernel is None:
            kernel = kernels[tf32] = Conv2d(problem, target, allow_tf32=tf32)
        x = layout.channels_last(input)
        r = None if residual is None else layout.channels_last(residual)
        b = None if bias is None else bias.to(torch.float32).contiguous()
        y = layout.empty(shape, input) if out is None else out
        kernel(x, packed(weight, kernel.pack_key, kernel.pack), b, r, y)
        return y

    return run


def note(problem: Conv2dProblem) -> str:
    """The chosen configuration and its static estimate, for `explain`."""
    from fastcnn.ops.conv2d.triton_launch import Conv2d
    from fastcnn.ops.triton_common import target_of

    tf32 = triton_backend.tf32_allowed("conv")
    return str(Conv2d(problem, target_of(problem.device), allow_tf32=tf32))


CANDIDATES = (triton_backend.candidate("conv2d", "implicit_gemm", _prepare, note=note),)
