"""conv2d_max_pool2d in Triton, for stems: fewer than 16 input channels."""

from __future__ import annotations

import math

from torch import Tensor

from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core import activations, layout
from fastcnn.core.candidate import Runner
from fastcnn.core.packing import packed
from fastcnn.ops.conv2d_max_pool2d.contract import Conv2dMaxPool2dProblem


def _supports(problem: Conv2dMaxPool2dProblem) -> str | None:
    from fastcnn.ops.conv2d_max_pool2d.triton_kernels import config_of

    conv = problem.first
    if conv.C >= 16:
        return f"it takes fewer than 16 input channels, the input has {conv.C}"
    if conv.groups != 1 or conv.has_residual:
        return "it has no groups and adds no residual"
    if not activations.increasing(conv.activation):
        return f"{conv.activation} does not keep order: the maximum cannot be taken first"
    config = config_of(problem, triton_backend.tf32_allowed("conv"))
    if min(config.windows(problem)) < 1:
        return f"a window covers more than {config.rows}x{config.columns} pixels of the convolution"
    return None


def _prepare(problem: Conv2dMaxPool2dProblem) -> Runner:
    from fastcnn.ops.conv2d_max_pool2d.triton_kernels import Conv2dMaxPool2d

    kernel, shape = Conv2dMaxPool2d(problem, allow_tf32=triton_backend.tf32_allowed("conv")), problem.output_shape

    def run(input: Tensor, weight: Tensor, bias: Tensor | None, residual: None, out: None) -> Tensor:
        x, y = layout.channels_last(input), layout.empty(shape, input)
        b = None if bias is None else bias.contiguous()
        kernel(x, packed(weight, kernel.pack_key, kernel.pack), b, y)
        return y

    return run


def _elements(problem: Conv2dMaxPool2dProblem) -> int:
    conv = problem.first
    return conv.N * conv.H * conv.W * conv.C + conv.K * conv.R * conv.S * conv.C + math.prod(problem.output_shape)


NOTE = triton_backend.memory_note(_elements)
CANDIDATES = (triton_backend.candidate("conv2d_max_pool2d", "conv2d_max_pool2d", _prepare, _supports, NOTE, "conv"),)
