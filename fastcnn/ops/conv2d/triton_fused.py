"""Fused launches for Inception and ResNet blocks: merged 1x1 convolutions, and max-pool + 1x1 projection."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from fastcnn.ops import triton_common as common
from fastcnn.ops import triton_cost as cost
from fastcnn.ops.conv2d import triton_kernels as kernels
from fastcnn.ops.conv2d.contract import Conv2dProblem
from fastcnn.ops.conv2d.triton_launch import gemm_of, pack_weight, tap_stride
from fastcnn.ops.triton_backend import output_stride
from fastcnn.ops.triton_common import Launch, Target, ceil_div
from fastcnn.ops.triton_cost import Config

MOST_DESTINATIONS = 4


class MergedConv1x1:
    """Up to four 1x1, stride 1 convolutions of one input as one GEMM, each written into its own slice.

    y_d = act_d(x @ weight_d + bias_d), act_d being `activation` or nothing

    The input is read once, where separate convolutions read it once each: Inception's three reductions, or
    ResNet's projection and first convolution. Called with (x, packed weight, packed bias, y_0, y_1, ...).

    problems: one a destination; they differ in K, y_stride and activation only. No residual.
    """

    def __init__(
        self,
        problems: Sequence[Conv2dProblem],
        target: Target,
        *,
        allow_tf32: bool = True,
        config: Config | None = None,
    ) -> None:
        p = problems[0]
        self._check(problems)
        self.problems, self.target = tuple(problems), target
        self.gemm = dataclasses.replace(
            gemm_of(p, allow_tf32),
            K=sum(q.K for q in problems),
            dram_bytes=p.dtype.itemsize * sum(p.N * p.H * p.W * (p.C * (q is p) + q.K) + q.K * p.C for q in problems),
        )
        self.config = config or cost.choose(target, self.gemm, self._candidates())
        block_n = self.config.block_n
        self.tiles = [ceil_div(q.K, block_n) for q in problems]
        self.launch = self._launch()

    @staticmethod
    def _check(problems: Sequence[Conv2dProblem]) -> None:
        p = problems[0]
        if not 1 <= len(problems) <= MOST_DESTINATIONS:
            raise ValueError(f"MergedConv1x1: {len(problems)} convolutions; 1 to {MOST_DESTINATIONS} are allowed")
        activations = {q.activation for q in problems if q.activation is not None}
        for q in problems:
            if (q.R, q.S, q.stride, q.groups, any(q.padding), q.has_residual) != (1, 1, (1, 1), 1, False, False):
                raise ValueError(f"MergedConv1x1: {q.summary()} is not a plain 1x1 convolution of stride 1")
            if (q.N, q.H, q.W, q.C, q.x_stride, q.dtype) != (p.N, p.H, p.W, p.C, p.x_stride, p.dtype):
                raise ValueError(f"MergedConv1x1: {q.summary()} has another input than {p.summary()}")
        if len(activations) > 1:
            raise ValueError(f"MergedConv1x1: activations {sorted(activations)}; one, or none, is allowed")

    def _candidates(self) -> list[Config]:
        return [c for c in cost.configs("conv1x1_multi") if cost.fits_precision(c, self.gemm)]

    def _launch(self) -> Launch:
        p, config = self.problems[0], self.config
        first = [sum(self.tiles[:d]) for d in range(MOST_DESTINATIONS)]
        none = sum(self.tiles)  # the first tile of a destination that is not there: never reached
        given = len(self.problems)
        padded = [*self.problems, *[p] * (MOST_DESTINATIONS - given)]
        first = [f if d < given else none for d, f in enumerate(first)]
        activated = sum((q.activation is not None) << d for d, q in enumerate(self.problems))
        return Launch(
            kernels.conv1x1_multi_kernel,
            [p.dtype, p.dtype, torch.float32, *[p.dtype] * MOST_DESTINATIONS],
            {
                "M": self.gemm.M,
                "C": p.C,
                "x_stride": p.x_stride,
                "w_stride": tap_stride(p.C, p.dtype),
                **{f"stride{d}": output_stride(q) for d, q in enumerate(padded)},
                **{f"K{d}": q.K for d, q in enumerate(padded)},
                **{f"tile{d}": first[d] for d in range(1, MOST_DESTINATIONS)},
                "tiles_k": none,
                "activated": activated,
            },
            {
                "ACTIVATION": next((q.activation for q in self.problems if q.activation), None),
                "PRECISION": self.gemm.precision,
                "INT64": common.needs_int64(
                    self.gemm.M * p.x_stride, *[self.gemm.M * output_stride(q) for q in self.problems]
                ),
                "BLOCK_M": config.block_m,
                "BLOCK_N": config.block_n,
                "BLOCK_K": config.block_k(p.dtype),
            },
            (ceil_div(self.gemm.M, config.block_m) * none,),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )

    def pack(
        self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (K_d, C, 1, 1) and biases (K_d,) one below the other, each padded to whole tiles."""
        dtype, block_n = self.problems[0].dtype, self.config.block_n
        rows, values = [], []
        for weight, bias, tiles in zip(weights, biases, self.tiles, strict=True):
            missing = tiles * block_n - weight.shape[0]
            rows.append(torch.nn.functional.pad(pack_weight(weight, dtype), (0, 0, 0, 0, 0, missing)))
            bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
            values.append(torch.nn.functional.pad(bias.detach().float(), (0, missing)))
        return torch.cat(rows), torch.cat(values)

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *ys: torch.Tensor) -> None:
        self.launch(x, weight, bias, *ys, *ys[:1] * (MOST_DESTINATIONS - len(ys)))


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
