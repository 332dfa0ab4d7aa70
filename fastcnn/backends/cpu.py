"""What the native CPU candidates share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fastcnn.core import layout, native
from fastcnn.core.candidate import Candidate, Problem, Runner

DTYPES: tuple[str, ...] = tuple(native.DTYPES.values())


def reason_against(problem: Problem) -> str | None:
    """Why the native CPU kernels cannot take a problem at all; None if they may."""
    if native.unavailable is not None:
        return native.unavailable
    if problem.device.type != "cpu":
        return f"the input is on {problem.device}"
    if problem.dtype not in native.DTYPES:
        return f"{problem.dtype} is not one of {', '.join(DTYPES)}"
    if problem.y_stride is None:
        return "out is not a channels_last tensor or channel slice, or overlaps an input"
    return None


def float32(tensor: Tensor) -> Tensor:
    """A bias or another constant as the kernels read it."""
    if tensor.dtype is torch.float32 and tensor.is_contiguous():
        return tensor
    return tensor.to(torch.float32).contiguous()


def runner(
    call: Callable[..., native.extension.Call],
    problem: Problem,
    *structs: object,
    in_place: bool,
    read: Iterable[Callable[[Tensor], Tensor]],
    strides: tuple[int, ...] | None = None,
) -> Runner:
    """A kernel of `_C.cpu`, bound to its problem, as the runner of (*tensors, out).

    in_place: the kernel can read each tensor where it is; where it cannot, `read` has for each of them what brings
        it into the form that the kernel reads.
    strides: of the output; channels_last if None.
    """
    shape = problem.output_shape
    bound = call(*structs, problem.threads, (shape, layout.strides(shape) if strides is None else strides))
    if in_place:
        return bound
    readers = tuple(read)

    def run(*tensors_and_out: Tensor | None) -> Tensor:
        *tensors, out = tensors_and_out
        return bound(*(t if t is None else r(t) for r, t in zip(readers, tensors, strict=True)), out)

    return run


class InPlaceProblem(Problem, Protocol):
    @property
    def in_place(self) -> bool:
        """Whether the kernel can read its input where it is."""


U = TypeVar("U", bound=InPlaceProblem)


def unary_candidates(kernel: str, native_problem: Callable[[U], object]) -> tuple[Candidate[U], ...]:
    """The candidate for a kernel of `_C.cpu` with one activation in."""

    def prepare(problem: U) -> Runner:
        call = getattr(native.extension.cpu, kernel)
        return runner(call, problem, native_problem(problem), in_place=problem.in_place, read=[layout.channels_last])

    return (Candidate("cpu", kernel, reason_against, prepare, dtypes=DTYPES),)
