"""The contract of scale_channels: arguments, output shape, definition, gradient, the problems it is tried by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.core import activations, checks, layout
from fastcnn.core.cases import Case

OP = "scale_channels"
SCHEMA = "scale_channels(Tensor input, Tensor scale, Tensor? residual, str? activation) -> Tensor"


class ScaleChannelsProblem(NamedTuple):
    device: torch.device
    dtype: torch.dtype
    N: int
    C: int
    H: int
    W: int
    activation: str | None
    has_residual: bool
    x_stride: int
    residual_stride: int
    y_stride: int | None
    threads: int
    in_place: bool = False  # kernels can read every input where it is

    @property
    def pixels(self) -> int:
        return self.H * self.W

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.H, self.W

    def empty_output(self, like: Tensor) -> Tensor:
        return layout.empty(self.output_shape, like)

    def summary(self) -> str:
        return (
            f"{self.N}x{self.C}x{self.H}x{self.W}{', residual' if self.has_residual else ''}, "
            f"activation {self.activation}, {str(self.dtype).removeprefix('torch.')} on {self.device}"
        )


def normalise(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
    (activation,) = params
    return (checks.activation(OP, activation),)


def infer(tensors: Sequence[Any], params: tuple[Any, ...]) -> ScaleChannelsProblem:
    (input, scale, residual, out), (activation,) = tensors, params
    checks.tensor(OP, "input", input)
    checks.tensor(OP, "scale", scale)
    checks.tensor(OP, "residual", residual, optional=True)
    checks.rank(OP, "input", input, (4,))
    checks.same_dtype_and_device(OP, ("input", input), ("scale", scale), ("residual", residual))
    N, C, H, W = input.shape
    if tuple(scale.shape) not in ((N, C), (N, C, 1, 1)):
        raise ValueError(
            f"{OP}: scale has shape {checks.shape(scale)}, input has {checks.shape(input)}; "
            f"({N}, {C}) or ({N}, {C}, 1, 1) is needed"
        )
    if residual is not None and residual.shape != input.shape:
        raise ValueError(
            f"{OP}: residual has shape {checks.shape(residual)}, input has {checks.shape(input)}; they must be the same"
        )
    checks.out(OP, out, ("input", input), (N, C, H, W))
    images = [input] if residual is None else [input, residual]
    others = [t for t in (scale, residual) if t is not None]
    return ScaleChannelsProblem(
        input.device, input.dtype, N, C, H, W, activation, residual is not None,
        layout.input_stride(input), C if residual is None else layout.input_stride(residual),
        layout.output_stride(out, C, input, *others), torch.get_num_threads(),
        scale.is_contiguous() and all(layout.pixel_stride(image) is not None for image in images),
    )  # fmt: skip


def definition(input: Tensor, scale: Tensor, residual: Tensor | None, activation: str | None) -> Tensor:
    """act(input * scale + residual)"""
    y = input * scale.reshape(*input.shape[:2], 1, 1)
    return activations.apply(activation, y if residual is None else y + residual)


def saved(tensors: Sequence[Any], output: Tensor, params: tuple[Any, ...]) -> Sequence[Any]:
    input, scale, residual = tensors
    needs = activations.needs(params[-1])
    return input, scale, residual if needs == "input" else None, output if needs == "output" else None


def backward(ctx: Any, grad: Tensor, activation: str | None) -> Any:
    input, scale, residual, output = ctx.saved_tensors
    grad = activations.gradient(
        activation, grad, output, lambda: torch.ops.fastcnn.scale_channels(input, scale, residual, None)
    )
    return (
        grad * scale.reshape(*input.shape[:2], 1, 1),
        (grad * input).sum((2, 3)).reshape(scale.shape),
        grad if ctx.needs_input_grad[2] else None,
    )


def _case(N: int, C: int, size: int, residual: bool = False, activation: str | None = None, **case: bool) -> Case:
    image = (N, C, size, size)
    return Case((image, (N, C), image if residual else None), (activation,), **case)


CASES = (
    _case(2, 19, 7),
    _case(3, 5, 9, residual=True, activation="relu"),
    _case(1, 48, 6, residual=True, activation="relu", sliced=True),
    _case(2, 70, 1, activation="sigmoid"),
    _case(0, 16, 4),
)
# Of SE-ResNet-50 and EfficientNet-B0.
RACES = (_case(1, 256, 56, residual=True, activation="relu"), _case(32, 256, 56, residual=True, activation="relu"))
