"""conv2d in Triton: implicit GEMM, its tile chosen by a static cost model or by tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fastcnn.backends.triton import backend as triton_backend
from fastcnn.backends.triton.target import target_of
from fastcnn.core import layout
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.core.packing import packed
from fastcnn.ops.conv2d.contract import Conv2dProblem

if TYPE_CHECKING:
    from fastcnn.ops.conv2d.triton_launch import Conv2d


def _kernel(problem: Conv2dProblem, descriptor: bool) -> Conv2d:
    from fastcnn.ops.conv2d.triton_launch import Conv2d

    tf32 = triton_backend.tf32_allowed("conv")
    return Conv2d(problem, target_of(problem.device), allow_tf32=tf32, descriptor=descriptor)


def _candidate(name: str, descriptor: bool) -> Candidate:
    def supports(problem: Conv2dProblem) -> str | None:
        if not descriptor:
            return None
        from fastcnn.ops.conv2d.triton_launch import descriptor_against

        return descriptor_against(problem, target_of(problem.device), triton_backend.tf32_allowed("conv"))

    def prepare(problem: Conv2dProblem) -> Runner:
        kernel, shape = _kernel(problem, descriptor), problem.output_shape

        def run(
            input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor | None
        ) -> Tensor:
            x = layout.channels_last(input)
            r = None if residual is None else layout.channels_last(residual)
            b = None if bias is None else bias.contiguous()
            y = layout.empty(shape, input) if out is None else out
            kernel(x, packed(weight, kernel.pack_key, kernel.pack), b, r, y)
            return y

        return run

    def note(problem: Conv2dProblem) -> str:
        return str(_kernel(problem, descriptor))

    return triton_backend.candidate("conv2d", name, prepare, supports, note, "conv")


# Two names, so that each is verified on hardware by itself.
CANDIDATES = (_candidate("implicit_gemm_tma", descriptor=True), _candidate("implicit_gemm", descriptor=False))
