"""conv2d in Triton: implicit GEMM, its tile chosen by a static cost model or by tuning."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


def _candidate(name: str, descriptor: bool) -> Candidate[Conv2dProblem]:
    def supports(problem: Conv2dProblem) -> str | None:
        if descriptor:
            from fastcnn.ops.conv2d.triton_launch import descriptor_against

            reason = descriptor_against(problem, target_of(problem.device), triton_backend.tf32_allowed("conv"))
            if reason is not None:
                return reason
        return triton_backend.plan_against(
            f"conv2d.triton.{name}", problem, lambda: _plan_key(problem, descriptor), "conv"
        )

    def prepare(problem: Conv2dProblem) -> Runner:
        return _runner(problem, _kernel(problem, descriptor))

    def note(problem: Conv2dProblem) -> str:
        return str(_kernel(problem, descriptor))

    return triton_backend.candidate("conv2d", name, prepare, supports, note, "conv")


def _runner(problem: Conv2dProblem, kernel: Conv2d) -> Runner:
    shape = problem.output_shape

    def run(input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor | None) -> Tensor:
        x = layout.channels_last(input)
        r = None if residual is None else layout.channels_last(residual)
        b = None if bias is None else bias.contiguous()
        y = layout.empty(shape, input) if out is None else out
        kernel(x, packed(weight, kernel.pack_key, kernel.pack), b, r, y)
        return y

    return run


def plans(problem: Conv2dProblem, name: str) -> dict[str, Callable[[], Runner]]:
    """What prepares each configuration of a kernel that can take the problem, the one first that selection takes."""
    from fastcnn.backends.triton import cost
    from fastcnn.ops.conv2d.triton_launch import Conv2d, candidates, gemm_of

    tf32, target, descriptor = triton_backend.tf32_allowed("conv"), target_of(problem.device), name.endswith("_tma")
    gemm = gemm_of(problem, tf32)
    taken = _kernel(problem, descriptor).config
    ranked = cost.ranked(target, gemm, candidates(problem, target, gemm))
    configs = [taken, *(c for c in ranked if c.descriptor == descriptor and c != taken)]

    def prepare(config: cost.Config) -> Runner:
        return _runner(problem, Conv2d(problem, target, allow_tf32=tf32, config=config))

    found: dict[str, Callable[[], Runner]] = {}
    for config in configs:
        found.setdefault(cost.plan_key(config), partial(prepare, config))
    return found


def _plan_key(problem: Conv2dProblem, descriptor: bool) -> str:
    from fastcnn.backends.triton.cost import plan_key

    return plan_key(_kernel(problem, descriptor).config)


def _grouped_against(problem: Conv2dProblem) -> str | None:
    from fastcnn.ops.conv2d.triton_launch import MOST_GROUPED

    widest = max(problem.C, problem.K) // problem.groups
    if problem.groups == 1 or widest > MOST_GROUPED:
        return f"it is for groups of up to {MOST_GROUPED} channels"
    return None


def _prepare_grouped(problem: Conv2dProblem) -> Runner:
    from fastcnn.ops.conv2d import triton_launch

    launch, shape = triton_launch.grouped(problem), problem.output_shape

    def run(input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor | None) -> Tensor:
        x = layout.channels_last(input)
        r = x if residual is None else layout.channels_last(residual)
        b = x if bias is None else bias.contiguous()
        y = layout.empty(shape, input) if out is None else out
        launch(x, packed(weight, "triton.grouped", triton_launch.pack_grouped), b, r, y)
        return y

    return run


# A name each, so that each is verified on hardware by itself.
CANDIDATES = (
    triton_backend.candidate(
        "conv2d", "grouped", _prepare_grouped, _grouped_against, products="conv", tensor_cores=False
    ),
    _candidate("implicit_gemm_tma", descriptor=True),
    _candidate("implicit_gemm", descriptor=False),
)
