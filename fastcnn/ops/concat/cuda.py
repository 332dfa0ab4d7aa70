"""concat in CUDA C++: each input is copied into its channel slice."""

from __future__ import annotations

from torch import Tensor

from fastcnn.backends import cuda as cuda_backend
from fastcnn.core import layout
from fastcnn.core.candidate import Runner
from fastcnn.ops.concat.contract import ConcatProblem
from fastcnn.ops.concat.cpu import native_problems
from fastcnn.ops.concat.reference import CANDIDATES as REFERENCE


def _supports(problem: ConcatProblem) -> str | None:
    if problem.dtype.itemsize not in (1, 2, 4, 8):
        return f"an element of {problem.dtype} has {problem.dtype.itemsize} bytes; 1, 2, 4 or 8 can be copied"
    return None


def _prepare(problem: ConcatProblem) -> Runner:
    copy_slice, copies = cuda_backend.kernels().copy_slice, native_problems(problem)
    shape, device = problem.output_shape, problem.device

    def run(*tensors_and_out: Tensor) -> Tensor:
        *tensors, out = tensors_and_out
        y = layout.empty(shape, tensors[0]) if out is None else out
        for (struct, offset), tensor in zip(copies, tensors, strict=True):
            # Lazy conjugation and negation are not bits that can be copied.
            x = layout.channels_last(tensor.resolve_conj().resolve_neg())
            cuda_backend.launch(device, copy_slice, struct, x.data_ptr(), y.data_ptr() + offset)
        return y

    return run


CANDIDATES = (cuda_backend.candidate("concat", "copy_slice", _prepare, REFERENCE[0], _supports, copies=True),)
