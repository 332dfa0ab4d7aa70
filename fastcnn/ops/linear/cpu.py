"""linear by the native CPU kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastcnn import native
from fastcnn.dispatch import Candidate, Runner
from fastcnn.ops import native_cpu
from fastcnn.ops.linear.contract import LinearProblem
from fastcnn.ops.packing import packed


def _supports(problem: LinearProblem) -> str | None:
    reason = native_cpu.reason_against(problem)
    if reason is None and not problem.plain:
        return "weight is not (out_features, in_features) or bias is not (out_features,)"
    return reason


def native_problem(problem: LinearProblem) -> Any:
    return native.struct(
        "LinearProblem",
        dtype=problem.dtype,
        activation=problem.activation,
        has_bias=problem.has_bias,
        N=problem.N,
        D=problem.D,
        M=problem.M,
        x_stride=problem.D,
        y_stride=problem.M,
    )


def _prepare(problem: LinearProblem) -> Runner:
    kernel, threads = native.library().cpu.Linear(native_problem(problem)), problem.threads

    pack_key = ("linear", native.library().cpu.isa())

    def pack(weight: Tensor) -> Tensor:
        source = weight.to(torch.float32).contiguous()
        target = torch.empty(kernel.packed_bytes, dtype=torch.uint8)
        kernel.pack(source.data_ptr(), target.data_ptr())
        return target

    def run(input: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
        x = input.contiguous()
        b = None if bias is None else native_cpu.float32(bias)
        y = problem.empty_output(input)
        w = packed(weight, pack_key, pack)
        kernel.run(x.data_ptr(), w.data_ptr(), native.pointer(b), y.data_ptr(), threads)
        return y

    return run


CANDIDATES: tuple[Candidate, ...] = (Candidate("cpu", "linear", _supports, _prepare, dtypes=native_cpu.DTYPES),)
