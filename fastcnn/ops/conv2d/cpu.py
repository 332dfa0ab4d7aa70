"""conv2d by the native CPU kernels: one candidate an algorithm, best first, as csrc/ops/conv2d orders them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastcnn.backends import cpu as native_cpu
from fastcnn.core import checks, layout, native
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.core.operator import OPERATORS
from fastcnn.core.packing import kept
from fastcnn.ops.conv2d.contract import Conv2dProblem


def native_problem(problem: Conv2dProblem) -> native.extension.Conv2dProblem:
    return native.struct(
        native.extension.Conv2dProblem,
        dtype=problem.dtype,
        activation=problem.activation,
        has_bias=problem.has_bias,
        has_residual=problem.has_residual,
        **{name: getattr(problem, name) for name in ("N", "H", "W", "C", "K", "R", "S", "P", "Q", "groups")},
        stride_h=problem.stride[0],
        stride_w=problem.stride[1],
        pad_h=problem.padding[0],
        pad_w=problem.padding[2],
        dilation_h=problem.dilation[0],
        dilation_w=problem.dilation[1],
        x_stride=problem.x_stride,
        y_stride=problem.y_stride,
        residual_stride=problem.residual_stride,
    )


def source_of(weight: Tensor) -> tuple[Tensor, Any]:
    """A weight as the native kernels pack it, and the form it has: itself, if float32 in one of PyTorch's layouts."""
    form = native.extension.cpu.WeightForm
    source = weight.detach().to(torch.float32)
    if not source.is_contiguous() and source.is_contiguous(memory_format=torch.channels_last):
        return source, form.channels_last
    return source.contiguous(), form.contiguous


def _candidate(algorithm: str) -> Candidate[Conv2dProblem]:
    def supports(problem: Conv2dProblem) -> str | None:
        reason = native_cpu.reason_against(problem)
        if reason is None:
            reason = native.extension.cpu.conv2d_reason(algorithm, native_problem(problem), problem.threads)
        return reason or None

    def prepare(problem: Conv2dProblem) -> Runner:
        kernel = native.extension.cpu.Conv2d(native_problem(problem), algorithm)
        shape = problem.output_shape
        output, forms = (shape, layout.strides(shape)), native.extension.cpu.WeightForm
        bound = kernel.bound(problem.threads, output)
        # Weights that are not kept are packed on the way, in memory that the thread keeps.
        packing = {
            form: kernel.bound(problem.threads, output, form) for form in (forms.contiguous, forms.channels_last)
        }
        in_place = problem.in_place and (not problem.has_bias or problem.dtype is torch.float32)
        # What the packed form depends on, beside the weight's own shape: batch and image sizes share it.
        pack_key = (algorithm, native.extension.cpu.isa(), problem.groups)

        def pack(weight: Tensor) -> Tensor:
            source, form = source_of(weight)
            target = torch.empty(kernel.packed_bytes, dtype=torch.uint8)
            kernel.pack(source.data_ptr(), target.data_ptr(), form, problem.threads)
            return target

        def run(
            input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, out: Tensor | None
        ) -> Tensor:
            if not in_place:
                input = layout.channels_last(input)
                residual = None if residual is None else layout.channels_last(residual)
                bias = None if bias is None else native_cpu.float32(bias)
            weights = kept((weight,), pack_key, pack)
            if weights is not None:
                return bound(input, weights, bias, residual, out)
            weights, form = source_of(weight)
            return packing[form](input, weights, bias, residual, out)

        return run

    return Candidate("cpu", algorithm, supports, prepare, dtypes=tuple(native.DTYPES.values()))


def set_winograd_tolerance(tolerance: float) -> None:
    """The largest relative error (L2) that a Winograd kernel may have to be chosen on the CPU.

    The default, 1e-5, admits F(2x2) and F(4x4); 1e-4 admits F(6x6) too; 0 forbids Winograd. Measured errors are a
    few times smaller than these bounds: see csrc/ops/conv2d/conv2d.h. Raises ValueError for a negative or
    non-finite value.
    """
    tolerance = checks.real("set_winograd_tolerance", "tolerance", tolerance)
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"set_winograd_tolerance: tolerance is {tolerance}; a finite number from 0 up is allowed")
    native.extension.cpu.set_winograd_tolerance(tolerance)
    OPERATORS["conv2d"].forget()


CANDIDATES = tuple(
    _candidate(name) for name in (native.extension.cpu.conv2d_algorithms() if native.unavailable is None else ())
)
