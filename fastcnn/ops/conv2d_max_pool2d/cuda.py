"""conv2d_max_pool2d in CUDA C++, for up to four input channels: csrc/ops/conv2d_max_pool2d/."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastcnn.backends import cuda as cuda_backend
from fastcnn.backends.triton import backend as triton_backend
from fastcnn.core import layout, native
from fastcnn.core.candidate import Runner
from fastcnn.core.packing import packed
from fastcnn.ops.conv2d import conv2d
from fastcnn.ops.conv2d.cpu import native_problem
from fastcnn.ops.conv2d_max_pool2d.contract import Conv2dMaxPool2dProblem
from fastcnn.ops.fused import in_pytorch
from fastcnn.ops.pool import max_pool2d
from fastcnn.ops.pool.cpu import native_pool2d


def pack_weight(weight: Tensor, tile_k: int) -> Tensor:
    """(K, C, R, S) -> (taps / 4, parts, K, 4 taps, 8 bytes of channels), padded by zeros; K to a multiple of tile_k."""
    K, C, R, S = weight.shape
    channels = 8 // weight.element_size()
    taps = weight.permute(0, 2, 3, 1).reshape(K, R * S, C)
    taps = F.pad(taps, (0, -C % channels, 0, -R * S % 4, 0, -K % tile_k))
    parts = taps.reshape(taps.shape[0], taps.shape[1] // 4, 4, -1, channels)
    return parts.permute(1, 3, 0, 2, 4).contiguous()


def _plan(problem: Conv2dMaxPool2dProblem) -> tuple[Any, str]:
    """The kernel's plan, and why it cannot take the problem ("" if it can)."""
    device = cuda_backend.device_of(problem.device)
    return cuda_backend.kernels().conv2d_max_pool2d_plan(
        native_problem(problem.first), native_pool2d(problem.second), device.capability,
        device.shared_memory_per_block, triton_backend.tf32_allowed("conv"),
    )  # fmt: skip


def _prepare(problem: Conv2dMaxPool2dProblem) -> Runner:
    conv, pool, (plan, _) = native_problem(problem.first), native_pool2d(problem.second), _plan(problem)
    call, tile_k = cuda_backend.kernels().conv2d_max_pool2d, cuda_backend.kernels().conv2d_max_pool2d_tile_k(conv.dtype)
    shape, device = problem.output_shape, problem.device

    def run(input: Tensor, weight: Tensor, bias: Tensor | None, residual: None, out: None) -> Tensor:
        x, y = layout.channels_last(input), layout.empty(shape, input)
        w = packed(weight, "cuda.conv2d_max_pool2d", lambda weight: pack_weight(weight, tile_k))
        b = None if bias is None else bias.contiguous()
        cuda_backend.launch(device, call, conv, pool, plan, x.data_ptr(), w.data_ptr(), native.pointer(b), y.data_ptr())
        return y

    return run


NAME = "conv2d_max_pool2d"
CANDIDATES = (
    cuda_backend.candidate(
        NAME,
        "conv2d_max_pool2d",
        _prepare,
        in_pytorch(NAME, conv2d, max_pool2d),
        lambda p: _plan(p)[1] or None,
        products="conv",
    ),
)
