"""conv2d in CUDA C++: implicit GEMM on the tensor cores, by the plan that a cost model or tuning gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastcnn.backends import cuda as cuda_backend
from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core import layout, native, tuning_file
from fastcnn.core.backend import current_backend
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.core.packing import packed
from fastcnn.ops.conv2d.contract import Conv2dProblem, tuning_key
from fastcnn.ops.conv2d.cpu import native_problem
from fastcnn.ops.conv2d.reference import CANDIDATES as REFERENCE

if TYPE_CHECKING:
    Struct = native.extension.Conv2dProblem
    Plan = native.extension.cuda.Conv2dPlan

# Best first. The extension's planner knows them by these names without "conv2d_".
KERNELS = ("conv2d_sm90_resident", "conv2d_sm90", "conv2d_grouped", "conv2d_sm80", "conv2d_sm80_gather")


class Convolution:
    """A convolution with its plan and workspace."""

    def __init__(self, struct: Struct, device: torch.device, plan: Plan) -> None:
        self.struct, self.device, self.plan = struct, device, plan
        self.workspace_bytes = cuda_backend.kernels().conv2d_workspace_bytes(struct, self.plan)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, y: Tensor) -> None:
        # Allocated for each call, on its stream: PyTorch's caching allocator makes that cheap and safe.
        workspace = torch.empty(self.workspace_bytes, dtype=torch.uint8, device=x.device)
        cuda_backend.launch(
            self.device, cuda_backend.kernels().conv2d, self.struct, self.plan,
            x.data_ptr(), weight.data_ptr(), native.pointer(bias), native.pointer(residual), y.data_ptr(),
            workspace.data_ptr() if self.workspace_bytes else 0,
        )  # fmt: skip


def conv2d_plans(struct: Struct, device: cuda_backend.Device, tf32: bool) -> list[Plan]:
    """Every plan that can run a convolution on a device, the one first that the cost model expects to be fastest."""
    return cuda_backend.kernels().conv2d_plans(
        struct, device.capability, device.multiprocessors, device.shared_memory_per_block, tf32
    )


def conv2d_plan(struct: Struct, problem: Conv2dProblem, tf32: bool, kernel: str | None = None) -> Plan | None:
    """The plan for a convolution: the tuned one, else the one that the cost model expects to be fastest.

    kernel: only plans of this kernel ("sm90", "sm80", "sm80_gather"). None if there is no plan. Where the backend is
    not demanded, plans that the ledger does not show verified are none.
    """
    device = cuda_backend.device_of(problem.device)
    plans = [plan for plan in conv2d_plans(struct, device, tf32) if kernel in (None, plan.kernel)]
    if current_backend() != "cuda":
        plans = [p for p in plans if cuda_backend.conv2d_plan_against(p, problem.dtype, tf32, device) is None]
    name = tuning_file.choices(device.name, "cuda").get(tuning_key(problem, tf32))
    return next((plan for plan in plans if plan.name == name), plans[0] if plans else None)


def by_precision(
    struct: Struct, problem: Conv2dProblem, kind: str, kernel: str | None = None
) -> Callable[[], Convolution]:
    """The convolution for the TF32 setting in force at each call, which the user may change between calls."""
    prepared: dict[bool, Convolution] = {}

    def current() -> Convolution:
        tf32 = triton_backend.tf32_allowed(kind)
        if tf32 not in prepared:
            # A precision that the kernel lacks (strict float32 on wgmma) is served by another one.
            plan = conv2d_plan(struct, problem, tf32, kernel) or conv2d_plan(struct, problem, tf32)
            if plan is None:  # the user has changed the precision since the kernel was chosen
                raise RuntimeError(f"no plan for {problem.summary()} is verified {'with' if tf32 else 'without'} TF32")
            prepared[tf32] = Convolution(struct, problem.device, plan)
        return prepared[tf32]

    return current


def _candidate(name: str) -> Candidate[Conv2dProblem]:
    kernel = name.removeprefix("conv2d_")

    def supports(problem: Conv2dProblem) -> str | None:
        struct, tf32 = native_problem(problem), triton_backend.tf32_allowed("conv")
        own = conv2d_plan(struct, problem, tf32, kernel)
        best = conv2d_plan(struct, problem, tf32)
        if own is None or best is None:
            return _reason(struct, problem, kernel, tf32) or "none of its plans for this problem is verified"
        better = f"conv2d_{best.kernel}"
        if better != name and cuda_backend.reason_against(f"conv2d.cuda.{better}", problem, products="conv") is None:
            return f"{best.name} {cuda_backend.SLOWER}"
        return None

    def prepare(problem: Conv2dProblem) -> Runner:
        return runner(problem, by_precision(native_problem(problem), problem, "conv", kernel))

    return cuda_backend.candidate("conv2d", name, prepare, REFERENCE[0], supports, products="conv")


def runner(problem: Conv2dProblem, convolution: Callable[[], Convolution]) -> Runner:
    """What runs the problem by the convolution that is asked for at each call."""
    shape = problem.output_shape

    def run(input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor | None) -> Tensor:
        x = layout.channels_last(input)
        w = packed(weight, "cuda.krsc", lambda weight: weight.contiguous(memory_format=torch.channels_last))
        b = None if bias is None else bias.contiguous()
        r = None if residual is None else layout.channels_last(residual)
        y = layout.empty(shape, input) if out is None else out
        convolution()(x, w, b, r, y)
        return y

    return run


def plans(problem: Conv2dProblem, kernel: str) -> dict[str, Runner]:
    """A runner for each plan of a kernel that can take the problem, by the plan's name in the ledger."""
    struct, tf32 = native_problem(problem), triton_backend.tf32_allowed("conv")
    device = cuda_backend.device_of(problem.device)
    found: dict[str, Runner] = {}
    for plan in conv2d_plans(struct, device, tf32):
        if f"conv2d_{plan.kernel}" == kernel and cuda_backend.plan_key(plan) not in found:
            convolution = Convolution(struct, problem.device, plan)
            found[cuda_backend.plan_key(plan)] = runner(problem, partial(_given, convolution))
    return found


def _given(convolution: Convolution) -> Convolution:
    return convolution


def _reason(struct: Struct, problem: Conv2dProblem, kernel: str, tf32: bool) -> str:
    """Why no plan of the kernel takes the problem: what the planner says of its commonest tile."""
    kernels, device = cuda_backend.kernels(), cuda_backend.device_of(problem.device)
    # Stages are 6 for a width of 64 on Hopper, see csrc/ops/conv2d/conv2d_sm90_cuda.cuh.
    tile = "128x64/stages=6" if kernel.startswith("sm90") else "64x64/stages=4"
    if kernel == "grouped":
        tile = f"4x{16 // problem.dtype.itemsize}/stages=1"
    plan = kernels.Conv2dPlan(f"{kernel}/{tile}/splits=1/{'tf32' if tf32 else 'strict'}")
    return kernels.conv2d_plan_reason(struct, plan, device.capability, device.shared_memory_per_block)


CANDIDATES = tuple(_candidate(name) for name in KERNELS)
