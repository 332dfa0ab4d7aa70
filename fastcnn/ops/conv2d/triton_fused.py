"""The fused launch of Inception's pooling branch."""

from __future__ import annotations

import torch

from fastcnn.ops import triton_common as common
from fastcnn.ops import triton_cost as cost
from fastcnn.ops.conv2d import triton_kernels as kernels
from fastcnn.ops.conv2d.contract import Conv2dProblem
from fastcnn.ops.conv2d.triton_launch import gemm_of, pack_weight, tap_stride
from fastcnn.ops.triton_backend import output_stride
from fastcnn.ops.triton_common import Launch, Target, ceil_div
from fastcnn.ops.triton_cost import Config


class MaxPoolConv1x1:
    """Inception's pooling branch: max-pool of an odd window, stride 1, same padding, then a 1x1 convolution.

    y = act(max_pool2d(x) @ weight + bias)

    The pooled tensor is never written. Called with (x, packed weight, bias or None, y).

    problem: the 1x1 convolution's, with the pool's input as input.
    """

    def __init__(
        self,
        problem: Conv2dProblem,
        window: int,
        target: Target,
        *,
        allow_tf32: bool = True,
        config: Config | None = None,
    ) -> None:
        p = problem
        if (p.R, p.S, p.stride, p.groups, any(p.padding), p.has_residual) != (1, 1, (1, 1), 1, False, False):
            raise ValueError(f"MaxPoolConv1x1: {p.summary()} is not a plain 1x1 convolution of stride 1")
        if window % 2 == 0:
            raise ValueError(f"MaxPoolConv1x1: window is {window}; an odd one keeps the image's size")
        self.problem, self.target, self.gemm = p, target, gemm_of(p, allow_tf32)
        fitting = [c for c in cost.configs("max_pool_conv1x1") if cost.fits_precision(c, self.gemm)]
        # Each tile of output channels pools again: as few of them as there are tiles for.
        fewest = min(ceil_div(p.K, c.block_n) for c in fitting)
        fitting = [c for c in fitting if ceil_div(p.K, c.block_n) == fewest]
        self.config = config or cost.choose(target, self.gemm, fitting)
        config = self.config
        self.launch = Launch(
            kernels.max_pool_conv1x1_kernel,
            [p.dtype, p.dtype, torch.float32, p.dtype],
            {
                "M": self.gemm.M,
                "H": p.H,
                "W": p.W,
                "C": p.C,
                "K": p.K,
                "x_stride": p.x_stride,
                "y_stride": output_stride(p),
                "w_stride": tap_stride(p.C, p.dtype),
            },
            {
                "WINDOW": window,
                "ACTIVATION": p.activation,
                "HAS_BIAS": p.has_bias,
                "PRECISION": self.gemm.precision,
                "INT64": common.needs_int64(self.gemm.M * p.x_stride, self.gemm.M * output_stride(p)),
                "BLOCK_M": config.block_m,
                "BLOCK_N": config.block_n,
                "BLOCK_K": config.block_k(p.dtype),
            },
            (ceil_div(self.gemm.M, config.block_m) * ceil_div(p.K, config.block_n),),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        return pack_weight(weight, self.problem.dtype)

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor) -> None:
        self.launch(x, weight, y if bias is None else bias, y)
