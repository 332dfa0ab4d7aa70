"""The contract of linear: arguments, output shape, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.core import activations, checks

SCHEMA = "linear(Tensor input, Tensor weight, Tensor? bias, str? activation) -> Tensor"


class LinearProblem(NamedTuple):
    device: torch.device
    dtype: torch.dtype
    output_shape: tuple[int, ...]
    N: int  # rows: the product of the leading sizes
    D: int
    M: int
    plain: bool  # weight is (M, D) and bias, if any, is (M,): what PyTorch also allows goes to the reference
    has_bias: bool
    activation: str | None
    weight_stride: int | None  # row_stride(weight)
    y_stride: int | None
    threads: int
    in_place: bool = False  # kernels can read every input where it is

    def empty_output(self, like: Tensor) -> Tensor:
        return like.new_empty(self.output_shape)

    def summary(self) -> str:
        text = f"{self.N}x{self.D} -> {self.M}" + ", bias" * self.has_bias
        if self.activation:
            text += f", activation {self.activation}"
        return f"{text}, {str(self.dtype).removeprefix('torch.')} on {self.device}"


def normalise(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
    (activation,) = params
    return (checks.activation("linear", activation),)


def infer(tensors: Sequence[Any], params: tuple[Any, ...]) -> LinearProblem:
    input, weight, bias, out = tensors
    checks.tensor("linear", "input", input)
    checks.tensor("linear", "weight", weight)
    checks.tensor("linear", "bias", bias, optional=True)
    checks.rank("linear", "weight", weight, (1, 2))
    checks.same_dtype_and_device("linear", ("input", input), ("weight", weight), ("bias", bias))
    if input.dim() == 0:
        raise ValueError("linear: input is 0-D; at least one dimension, of in_features, is needed")
    if input.shape[-1] != weight.shape[-1]:
        raise ValueError(f"linear: weight has {weight.shape[-1]} input features, input has {input.shape[-1]}")
    output_shape = tuple(input.shape[:-1]) + tuple(weight.shape[:-1])
    plain = weight.dim() == 2 and (bias is None or tuple(bias.shape) == (weight.shape[0],))
    if bias is not None and not plain:
        try:
            fits = torch.broadcast_shapes(bias.shape, output_shape) == torch.Size(output_shape)
        except RuntimeError:
            fits = False
        if not fits or (weight.dim() == 1 and bias.dim() > 0):
            raise ValueError(
                f"linear: bias has shape {checks.shape(bias)}; it must broadcast to the output, {output_shape}"
            )
    checks.output_size("linear", output_shape)
    checks.out("linear", out, ("input", input), output_shape)
    return LinearProblem(
        input.device, input.dtype, output_shape, prod(input.shape[:-1]), input.shape[-1],
        weight.shape[0] if weight.dim() == 2 else 1, plain, bias is not None, params[0],
        row_stride(weight),
        None if out is not None else prod(weight.shape[:-1]), torch.get_num_threads(),
        input.is_contiguous() and (bias is None or bias.is_contiguous()),
    )  # fmt: skip


def row_stride(weight: Tensor) -> int | None:
    """How far a weight's rows lie apart; None where they are not contiguous, and a kernel needs a copy."""
    return weight.stride(0) if weight.dim() == 2 and (weight.stride(1) == 1 or weight.shape[1] <= 1) else None


def saved(tensors: Sequence[Any], output: Tensor, params: tuple[Any, ...]) -> Sequence[Any]:
    input, weight, bias = tensors
    return input, weight, bias, output if activations.needs(params[-1]) == "output" else None
