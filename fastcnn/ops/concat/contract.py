"""The contract of concat, along channels: arguments, output shape, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.core import checks, layout

SCHEMA = "concat(Tensor[] tensors) -> Tensor"


class ConcatProblem(NamedTuple):
    device: torch.device
    dtype: torch.dtype
    N: int
    H: int
    W: int
    C: tuple[int, ...]  # of each input
    x_stride: tuple[int, ...]
    y_stride: int | None
    threads: int
    in_place: bool = False  # kernels can read every input where it is

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.N, sum(self.C), self.H, self.W

    def empty_output(self, like: Tensor) -> Tensor:
        return layout.empty(self.output_shape, like)

    def summary(self) -> str:
        channels = " + ".join(map(str, self.C))
        return f"{self.N}x({channels})x{self.H}x{self.W}, {str(self.dtype).removeprefix('torch.')} on {self.device}"


def normalise(tensors: Sequence[Any], params: Sequence[Any]) -> tuple[Any, ...]:
    return ()


def infer(tensors: Sequence[Any], params: tuple[Any, ...]) -> ConcatProblem:
    *inputs, out = tensors
    if not inputs:
        raise ValueError("concat: tensors is empty; at least one tensor is needed")
    for i, x in enumerate(inputs):
        checks.tensor("concat", f"tensors[{i}]", x)
        checks.rank("concat", f"tensors[{i}]", x, (4,))
        checks.same_dtype_and_device("concat", ("tensors[0]", inputs[0]), (f"tensors[{i}]", x))
    N, _, H, W = inputs[0].shape
    for i, x in enumerate(inputs):
        if (x.shape[0], *x.shape[2:]) != (N, H, W):
            raise ValueError(
                f"concat: tensors[{i}] has shape {checks.shape(x)}, tensors[0] has {checks.shape(inputs[0])}; "
                "only the channels may differ"
            )
    C = tuple(x.shape[1] for x in inputs)
    checks.out("concat", out, ("tensors[0]", inputs[0]), (N, sum(C), H, W))
    return ConcatProblem(
        inputs[0].device, inputs[0].dtype, N, H, W, C,
        tuple(layout.input_stride(x) for x in inputs),
        layout.output_stride(out, sum(C), *inputs), torch.get_num_threads(),
        all(layout.pixel_stride(x) is not None for x in inputs),
    )  # fmt: skip


def saved(tensors: Sequence[Any], output: Tensor, params: tuple[Any, ...]) -> Sequence[Any]:
    # Only the channel counts matter, but the context can hold nothing but tensors and what they own.
    return tensors


def backward(ctx: Any, grad: Tensor) -> Any:
    return grad.split([x.shape[1] for x in ctx.saved_tensors], dim=1)
