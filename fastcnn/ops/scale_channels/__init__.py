"""scale_channels: squeeze-and-excitation's last step, with the residual addition and the activation behind it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastcnn.backends import cpu as native_cpu
from fastcnn.backends import reference
from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core import layout, native
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.core.operator import Operator
from fastcnn.ops.scale_channels import contract
from fastcnn.ops.scale_channels.contract import ScaleChannelsProblem


def native_problem(problem: ScaleChannelsProblem) -> native.extension.ScaleChannelsProblem:
    names = ("dtype", "activation", "has_residual", "N", "pixels", "C", "x_stride", "residual_stride", "y_stride")
    return native.struct(native.extension.ScaleChannelsProblem, **{name: getattr(problem, name) for name in names})


def _prepare_cpu(problem: ScaleChannelsProblem) -> Runner:
    return native_cpu.runner(
        native.extension.cpu.scale_channels, problem, native_problem(problem), in_place=problem.in_place,
        read=[layout.channels_last, Tensor.contiguous, layout.channels_last],
    )  # fmt: skip


def _prepare_triton(problem: ScaleChannelsProblem) -> Runner:
    from fastcnn.ops.scale_channels import triton_kernels

    launch = triton_kernels.scale_channels(problem)

    def run(input: Tensor, scale: Tensor, residual: Tensor | None, out: Tensor | None) -> Tensor:
        x = layout.channels_last(input)
        r = x if residual is None else layout.channels_last(residual)
        y = problem.empty_output(input) if out is None else out
        launch(x, scale.contiguous(), r, y)
        return y

    return run


def _elements(problem: ScaleChannelsProblem) -> int:
    return (3 if problem.has_residual else 2) * problem.N * problem.C * problem.pixels


def _activation(problem: ScaleChannelsProblem) -> tuple[Any, ...]:
    return (problem.activation,)


scale_channels = Operator(
    contract.OP,
    contract.SCHEMA,
    normalise=contract.normalise,
    infer=contract.infer,
    definition=contract.definition,
    backward=contract.backward,
    saved=contract.saved,
    candidates=(
        triton_backend.candidate(contract.OP, contract.OP, _prepare_triton, note=triton_backend.memory_note(_elements)),
        Candidate("cpu", contract.OP, native_cpu.reason_against, _prepare_cpu, dtypes=native_cpu.DTYPES),
        reference.candidate(contract.OP, contract.definition, _activation),
    ),
    tensor_count=3,
    cases=contract.CASES,
    races=contract.RACES,
)
