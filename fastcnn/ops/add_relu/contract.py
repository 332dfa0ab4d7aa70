"""The contract of add_relu: arguments, output shape, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.core import checks, layout

SCHEMA = "add_relu(Tensor input, Tensor other) -> Tensor"


class AddReluProblem(NamedTuple):
    device: torch.device
    dtype: torch.dtype
    output_shape: tuple[int, ...]
    flat: bool  # both inputs are dense and alike: one run over memory in whatever layout they have
    a_stride: int
    b_stride: int
    y_stride: int | None
    threads: int
    strides: tuple[int, ...] = ()  # of the inputs and the output, if flat

    @property
    def numel(self) -> int:
        count = 1
        for size in self.output_shape:
            count *= size
        return count

    def empty_output(self, like: Tensor) -> Tensor:
        if self.flat:
            return torch.empty_like(like)
        if len(self.output_shape) == 4:
            return layout.empty(self.output_shape, like)
        return like.new_empty(self.output_shape)

    def summary(self) -> str:
        size = "x".join(map(str, self.output_shape))
        return f"{size}, {str(self.dtype).removeprefix('torch.')} on {self.device}"


def normalise(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
    return ()


def infer(tensors: Sequence[Any], params: tuple[Any, ...]) -> AddReluProblem:
    input, other, out = tensors
    checks.tensor("add_relu", "input", input)
    checks.tensor("add_relu", "other", other)
    checks.same_dtype_and_device("add_relu", ("input", input), ("other", other))
    if input.shape != other.shape:
        raise ValueError(
            f"add_relu: other has shape {checks.shape(other)}, input has {checks.shape(input)}; they must be the same"
        )
    checks.out("add_relu", out, ("input", input), input.shape)
    C = input.shape[1] if input.dim() == 4 else 1
    flat = out is None and layout.dense_alike(input, other)
    strides = (layout.input_stride(input), layout.input_stride(other)) if input.dim() == 4 and not flat else (C, C)
    y_stride = layout.output_stride(out, C, input, other) if input.dim() == 4 or out is None else None
    return AddReluProblem(
        input.device, input.dtype, tuple(input.shape), flat, *strides, y_stride, torch.get_num_threads(),
        tuple(input.stride()),
    )  # fmt: skip


def saved(tensors: Sequence[Any], output: Tensor, params: tuple[Any, ...]) -> Sequence[Any]:
    return (output,)


def backward(ctx: Any, grad: Tensor) -> Any:
    (output,) = ctx.saved_tensors
    grad = torch.ops.aten.threshold_backward(grad, output, 0)
    return grad, grad
