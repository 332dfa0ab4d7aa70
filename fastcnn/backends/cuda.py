"""What the CUDA C++ candidates share: when they apply, how a kernel is launched, what happens when a launch fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core import layout, ledger, native
from fastcnn.core.backend import current_backend
from fastcnn.core.candidate import Candidate, P, Problem, Runner

DTYPES: tuple[str, ...] = tuple(native.DTYPES.values())

# How a reason ends that is a preference: the kernel could run the problem.
SLOWER = "is expected to be faster"


class Device(NamedTuple):
    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_memory_per_block: int

    @property
    def architecture(self) -> str:
        return f"sm_{self.capability[0]}{self.capability[1]}"


def built() -> bool:
    return native.unavailable is None and hasattr(native.extension, "cuda")


def kernels() -> type[native.extension.cuda]:
    """The extension's CUDA kernels."""
    return native.extension.cuda


@cache
def device_of(device: torch.device) -> Device:
    index = torch.cuda.current_device() if device.index is None else device.index
    return Device(**kernels().device(index))


def launch(device: torch.device, function: Callable[..., None], *arguments: Any) -> None:
    """function(*arguments, stream) on the current stream of the tensors' device."""
    with torch.cuda.device(device):
        function(*arguments, torch.cuda.current_stream(device).cuda_stream)


def architectures() -> tuple[str, ...]:
    """What the kernels were compiled for: machine code for "sm_80", PTX for "compute_120"."""
    names = native.extension.cuda.architectures if built() else []
    return tuple(f"compute_{a.removesuffix('-virtual')}" if a.endswith("-virtual") else f"sm_{a}" for a in names)


# Devices on boards of their own (Xavier, Orin, Thor and its former number): machine code for others is not theirs.
_BOARDS = ((7, 2), (8, 7), (10, 1), (11, 0))


def _runs_on(capability: tuple[int, int]) -> bool:
    for architecture in architectures():
        kind, _, name = architecture.partition("_")
        compiled = divmod(int(name.rstrip("af")), 10)
        if kind == "compute":  # the driver compiles it for any later device
            runs = compiled <= capability
        elif name.endswith("a") or compiled in _BOARDS or capability in _BOARDS:
            runs = compiled == capability
        else:
            runs = compiled[0] == capability[0] and compiled[1] <= capability[1]
        if runs:
            return True
    return False


def reason_against(kernel: str, problem: Problem, copies: bool = False, products: str | None = None) -> str | None:
    """Why the kernel "<op>.cuda.<name>" cannot or should not take the problem; None if it may.

    copies: the kernel only moves bytes, so that every dtype will do. products: see `triton_backend.dtype_key`.
    """
    if native.unavailable is not None:
        return native.unavailable
    if problem.device.type != "cuda":
        return f"the input is on {problem.device}"
    if not built():
        return f"fastcnn's CUDA kernels were {native.extension.build_info()['cuda']}"
    if not copies and problem.dtype not in native.DTYPES:
        return f"{problem.dtype} is not one of {', '.join(DTYPES)}"
    if problem.y_stride is None:
        return "out is not a channels_last tensor or channel slice, or overlaps an input"
    device = device_of(problem.device)
    if not _runs_on(device.capability):
        return f"fastcnn was built for {', '.join(architectures())}, the device is {device.architecture}"
    if current_backend() == "cuda":
        return None
    dtype = triton_backend.dtype_key(problem.dtype, products)
    ledger.hint(device.architecture, device.name)
    return ledger.reason_against(kernel, dtype, device.architecture) or ledger.reason_against_race(
        kernel, dtype, device.name, ledger.kind(problem)
    )


def candidate(
    op: str,
    name: str,
    prepare: Callable[[P], Runner],
    fallback: Candidate[P],
    supports: Callable[[P], str | None] = lambda problem: None,
    copies: bool = False,
    products: str | None = None,
) -> Candidate[P]:
    """A CUDA candidate. `supports` adds what this kernel needs beyond what all need.

    A launch that fails is an error where the backend was demanded; else it is reported as a warning and
    `fallback`, PyTorch's own operator, computes the call.
    """
    kernel = f"{op}.cuda.{name}"

    def prepare_with_fallback(problem: P) -> Runner:
        run = prepare(problem)
        if current_backend() == "cuda":
            return run

        def guarded(*tensors: Any) -> Tensor:
            try:
                return run(*tensors)
            except RuntimeError as error:
                warnings.warn(f"{kernel} failed, PyTorch's operator is used instead: {error}", stacklevel=3)
                return fallback.prepare(problem)(*tensors)

        return guarded

    return Candidate(
        "cuda",
        name,
        lambda problem: reason_against(kernel, problem, copies, products) or supports(problem),
        prepare_with_fallback,
        dtypes=("every dtype of PyTorch",) if copies else DTYPES,
        architectures=architectures(),
    )


def unary_candidate(op: str, function: str, native_problem: Callable[[P], Any], fallback: Candidate[P]) -> Candidate[P]:
    """The candidate for `_C.cuda.<function>(problem, x, y, stream)`, an operator with one activation in."""

    def prepare(problem: P) -> Runner:
        call, struct = getattr(kernels(), function), native_problem(problem)
        shape, device = problem.output_shape, problem.device

        def run(input: Tensor, out: Tensor | None) -> Tensor:
            x = layout.channels_last(input)
            y = layout.empty(shape, input) if out is None else out
            launch(device, call, struct, x.data_ptr(), y.data_ptr())
            return y

        return run

    return candidate(op, function, prepare, fallback)


def plan_key(plan: Any) -> str:
    """A plan as the ledger has it: into how many parts a sum is split is left out, every number runs the same code."""
    return f"{plan.tile_m}x{plan.tile_n}{'/split' if plan.splits > 1 else ''}"


def conv2d_plan_against(plan: Any, dtype: torch.dtype, tf32: bool, device: Device) -> str | None:
    """Why a plan must not be chosen by default; None if it was verified."""
    name = "tf32" if tf32 and dtype == torch.float32 else native.DTYPES[dtype]
    return ledger.reason_against(f"conv2d.cuda.conv2d_{plan.kernel}", name, device.architecture, plan_key(plan))
