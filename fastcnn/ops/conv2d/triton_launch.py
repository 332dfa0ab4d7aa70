"""Builds Triton launches for conv2d: packing, configuration, kernels with their numbers bound."""

from __future__ import annotations

import dataclasses

import torch

from fastcnn.backends.triton import common, cost
from fastcnn.backends.triton.backend import output_stride
from fastcnn.backends.triton.common import Descriptor, Launch, RowTile
from fastcnn.backends.triton.cost import Config, Gemm
from fastcnn.backends.triton.target import Target, ceil_div
from fastcnn.core import tuning_file
from fastcnn.ops.conv2d import triton_kernels as kernels
from fastcnn.ops.conv2d.contract import Conv2dProblem, tuning_key


def precision(dtype: torch.dtype, allow_tf32: bool) -> str:
    """tf32 where the user allows it; else three TF32 products, which keep float32's accuracy."""
    return "tf32" if dtype != torch.float32 or allow_tf32 else "tf32x3"


def wide_taps(p: Conv2dProblem) -> bool:
    """True if a filter row (s, c) should be one run of channels: few input channels, pixels back to back.

    The stem's 3 channels would fill 3 of a block's 16 inner elements; its rows of 7 x 3 = 21 fill 32.
    """
    return p.groups == 1 and p.C < 16 and p.S > 1 and p.dilation[1] == 1 and p.x_stride == p.C


def pack_weight(weight: torch.Tensor, dtype: torch.dtype, wide: bool = False) -> torch.Tensor:
    """(K, C/groups, R, S) -> rows (K, R, S, c), or (K, R, s and c) if `wide`, padded to 16 bytes a tap."""
    k, c, r, s = weight.shape
    taps = weight.detach().to(dtype).permute(0, 2, 3, 1)
    taps = taps.reshape(k, r, s * c) if wide else taps.reshape(k, r * s, c)
    return torch.nn.functional.pad(taps, (0, tap_stride(taps.shape[2], dtype) - taps.shape[2])).contiguous()


def tap_stride(channels: int, dtype: torch.dtype) -> int:
    """Elements from one tap to the next in packed weights."""
    line = 16 // dtype.itemsize
    return ceil_div(channels, line) * line


def tap_constants(p: Conv2dProblem) -> dict[str, int]:
    """Where the taps lie, as the kernels that load by pointers take it."""
    wide = p.C if wide_taps(p) else 1  # a pixel of a wide tap is one element
    return {
        "R": p.R,
        "S": 1 if wide_taps(p) else p.S,
        "STRIDE_H": p.stride[0],
        "STRIDE_W": p.stride[1] * wide,
        "PAD_H": p.padding[0],
        "PAD_W": p.padding[2] * wide,
        "DILATION_H": p.dilation[0],
        "DILATION_W": p.dilation[1],
    }


def gemm_of(p: Conv2dProblem, allow_tf32: bool) -> Gemm:
    wide = wide_taps(p)
    element = p.dtype.itemsize
    outputs = p.N * p.P * p.Q * p.K
    # A 1x1 convolution of stride 2 reads a quarter of the pixels.
    pixels = p.N * min(p.H, p.P * p.R) * min(p.W, p.Q * p.S)
    return Gemm(
        dtype=p.dtype,
        M=p.N * p.P * p.Q,
        K=p.K // p.groups,
        C=p.S * p.C if wide else p.C // p.groups,
        taps=p.R if wide else p.R * p.S,
        groups=p.groups,
        precision=precision(p.dtype, allow_tf32),
        dram_bytes=element
        * (pixels * p.C + p.K * p.R * p.S * p.C // p.groups + outputs * (2 if p.has_residual else 1)),
    )


def descriptor_against(p: Conv2dProblem, target: Target, allow_tf32: bool) -> str | None:
    """Why descriptors are not the way to run a problem, or None."""
    if target.arch < 90:
        return f"sm_{target.arch} has no TMA: descriptors become pointers there"
    boxes, pointers = (choose(p, target, allow_tf32, descriptor) for descriptor in (True, False))
    if boxes is None:
        reasons = {descriptor_reason(p, c) for c in cost.configs("conv2d") if c.descriptor}
        return "; ".join(sorted(r for r in reasons if r)) or "no configuration with descriptors fits"
    known = tuned_config(p, target, allow_tf32)
    if known is not None:
        return None if known.descriptor else f"tuned: {known}"
    assert pointers is not None
    gemm = gemm_of(p, allow_tf32)
    predicted = [cost.estimate(target, gemm, config).seconds * 1e6 for config in (boxes, pointers)]
    if predicted[0] > predicted[1]:
        return "predicted {:.1f} us, {:.1f} us by pointers".format(*predicted)
    return None


def descriptor_reason(p: Conv2dProblem, config: Config) -> str | None:
    """Why the image cannot be read in boxes, or None."""
    line = 16 // p.dtype.itemsize
    if p.groups != 1:
        return "groups"
    if p.stride[0] != p.stride[1] or p.stride[0] not in (1, 2):
        return "stride other than 1 or 2"
    if p.x_stride % line or p.C % line:
        return f"channels or pixel stride not a multiple of {line}"
    if p.stride[0] == 2 and (p.H % 2 or p.W % 2):
        return "stride 2 of an odd image"
    if p.stride[0] == 2 and p.C % config.block_k(p.dtype):
        # A ragged last block would run into the next column's channels.
        return "stride 2 with channels not a multiple of the block"
    if wide_taps(p):
        return "few input channels, taken a filter row at a time"
    if min(p.N, p.H, p.W, p.C, p.K) == 0:
        return "empty tensor"
    return None


def box(p: Conv2dProblem, block_m: int) -> tuple[int, int, int]:
    """(images, rows, columns) with a product of block_m that cover the output with the fewest boxes."""
    best, fewest = (1, 1, block_m), None
    columns = 1
    while columns <= block_m:
        rows = 1
        while rows * columns <= block_m:
            images = block_m // (rows * columns)
            count = ceil_div(p.N, images) * ceil_div(p.P, rows) * ceil_div(p.Q, columns)
            # At most 256 along a side: a TMA box can be no larger. Prefer long rows: fewer, longer requests.
            if max(rows, columns, images) <= 256 and (fewest is None or (count, -columns) < fewest):
                best, fewest = (images, rows, columns), (count, -columns)
            rows *= 2
        columns *= 2
    return best


def candidates(p: Conv2dProblem, target: Target, gemm: Gemm) -> list[Config]:
    """Every configuration that can run this problem on this target."""
    found = []
    # Whole filter rows are gathered element by element: many address registers, so smaller tiles.
    for config in cost.configs("conv2d_rows" if wide_taps(p) else "conv2d"):
        if cost.spills(config, gemm, target):
            continue
        if config.descriptor:
            if target.arch >= 90 and descriptor_reason(p, config) is None:
                found.append(config)
            continue
        found.append(config)
        if config.num_warps <= 4:
            # The sum is split only where whole tiles would leave SMs idle.
            steps = gemm.steps(config)
            tiles = ceil_div(gemm.M, config.block_m) * ceil_div(gemm.K, config.block_n) * gemm.groups
            room = 2 * target.sms // max(1, tiles)
            found += [dataclasses.replace(config, splits=s) for s in (2, 4, 8, 16) if s <= room and steps >= 4 * s]
    return found


def choose(p: Conv2dProblem, target: Target, allow_tf32: bool, descriptor: bool | None = None) -> Config | None:
    """The tuned configuration, else the one of the least estimate, with or without descriptors if that is asked.

    None if no configuration with descriptors takes the problem.
    """
    known = tuned_config(p, target, allow_tf32)
    if known is not None and descriptor in (None, known.descriptor):
        return known
    gemm = gemm_of(p, allow_tf32)
    found = [c for c in candidates(p, target, gemm) if descriptor in (None, c.descriptor)]
    return cost.choose(target, gemm, found) if found else None


def tuned_config(p: Conv2dProblem, target: Target, allow_tf32: bool) -> Config | None:
    """The configuration measured fastest on such a device, if it is a candidate still."""
    choice = tuning_file.choices(target.name, "triton").get(tuning_key(p, allow_tf32))
    if choice is None:
        return None
    return next((c for c in candidates(p, target, gemm_of(p, allow_tf32)) if cost.entry(c) == choice), None)


class Conv2d:
    """conv2d with everything but its tensors bound. Called with (x, packed weight, bias, residual, y).

    bias and residual may be None. `launches` are what is compiled.
    """

    def __init__(
        self,
        problem: Conv2dProblem,
        target: Target,
        *,
        allow_tf32: bool = True,
        config: Config | None = None,
        descriptor: bool | None = None,
    ) -> None:
        p = self.problem = problem
        self.target = target
        self.gemm = gemm_of(p, allow_tf32)
        chosen = config or choose(p, target, allow_tf32, descriptor)
        if chosen is None:
            raise ValueError(f"{p.summary()}: no configuration with descriptors takes it on {target.name}")
        self.config = chosen
        self.wide = wide_taps(p)
        self._unaligned: Conv2d | None = None
        if self.config.descriptor:
            self.launches = [self._descriptor_launch()]
        else:
            self.launches = [self._pointer_launch()]
            if self.config.splits > 1:
                self.launches.append(self._reduce_launch())

    @property
    def pack_key(self) -> tuple[str, torch.dtype, bool]:
        return "triton", self.problem.dtype, self.wide

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        return pack_weight(weight, self.problem.dtype, self.wide)

    def estimate(self) -> cost.Estimate:
        return cost.estimate(self.target, self.gemm, self.config)

    def __str__(self) -> str:
        return f"{self.config} on {self.target.name}: {self.estimate()}"

    @property
    def _needs_int64(self) -> bool:
        p = self.problem
        outputs = p.N * p.P * p.Q
        return common.needs_int64(
            p.N * p.H * p.W * p.x_stride, outputs * output_stride(p), outputs * p.residual_stride, p.K * p.R * p.S * p.C
        )

    def _pointer_launch(self) -> Launch:
        p, gemm, config = self.problem, self.gemm, self.config
        block_k = config.block_k(p.dtype)
        split = config.splits > 1
        wide = p.C if self.wide else 1  # a pixel of a wide tap is one element
        blocks = ceil_div(gemm.M, config.block_m) * ceil_div(gemm.K, config.block_n)
        return Launch(
            kernels.conv2d_kernel,
            [*[p.dtype] * 4, torch.float32 if split else p.dtype],
            {
                "M": gemm.M,
                "H": p.H,
                "W": p.W * wide,
                "C": gemm.C,
                "K": gemm.K,
                "P": p.P,
                "Q": p.Q,
                "x_stride": 1 if self.wide else p.x_stride,
                "y_stride": output_stride(p),
                "residual_stride": p.residual_stride,
                "w_tap_stride": tap_stride(gemm.C, p.dtype),
                "steps": ceil_div(gemm.steps(config), config.splits),
            },
            {
                **tap_constants(p),
                "ACTIVATION": p.activation,
                "HAS_BIAS": p.has_bias,
                "HAS_RESIDUAL": p.has_residual,
                "SPLITS": config.splits,
                "WIDE_TAPS": self.wide,
                "BOUNDED": not self._inside,
                # One flattened loop over taps was miscompiled with 8 warps (pytorch/pytorch#173068).
                "NESTED": config.num_warps > 4 and gemm.taps > 1,
                "PRECISION": gemm.precision,
                "INT64": self._needs_int64,
                "BLOCK_M": config.block_m,
                "BLOCK_N": config.block_n,
                "BLOCK_K": block_k,
            },
            (blocks, p.groups, config.splits),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )

    @property
    def _inside(self) -> bool:
        """True if no tap of any output ever lies outside the image, so that only M needs a mask."""
        p = self.problem
        return not any(p.padding)

    def _reduce_launch(self) -> Launch:
        p, m = self.problem, self.gemm.M
        tile = RowTile.of(p.K, elements=512)
        return Launch(
            kernels.reduce_splits_kernel,
            [torch.float32, *[p.dtype] * 3],
            {"M": m, "K": p.K, "y_stride": output_stride(p), "residual_stride": p.residual_stride},
            {
                "SPLITS": self.config.splits,
                "ACTIVATION": p.activation,
                "HAS_BIAS": p.has_bias,
                "HAS_RESIDUAL": p.has_residual,
                "INT64": self._needs_int64,
                "BLOCK_P": tile.pixels,
                "BLOCK_C": tile.channels,
            },
            tile.grid(m, p.K),
        )

    def _descriptor_launch(self) -> Launch:
        p, config = self.problem, self.config
        block_k = config.block_k(p.dtype)
        images, rows, columns = box(p, config.block_m)
        row = p.W * p.x_stride
        if p.stride[0] == 1:
            x = Descriptor(
                p.dtype, (p.N, p.H, p.W, p.C), (p.H * row, row, p.x_stride, 1), (images, rows, columns, block_k)
            )
        else:
            x = Descriptor(
                p.dtype,
                (p.N, p.H // 2, 2, p.W // 2, p.x_stride + p.C),
                (p.H * row, 2 * row, row, 2 * p.x_stride, 1),
                (images, rows, 1, columns, block_k),
            )
        tap = tap_stride(p.C, p.dtype)
        taps = p.R * p.S
        w = Descriptor(p.dtype, (p.K, taps, p.C), (taps * tap, tap, 1), (config.block_n, 1, block_k))
        tiles = ceil_div(p.N, images) * ceil_div(p.P, rows) * ceil_div(p.Q, columns) * ceil_div(p.K, config.block_n)
        grid = min(tiles, self.target.sms * cost.blocks_per_sm(self.target, config)) if config.persistent else tiles
        return Launch(
            kernels.conv2d_descriptor_kernel,
            [x, w, *[p.dtype] * 3],
            {
                "N": p.N,
                "C": p.C,
                "K": p.K,
                "P": p.P,
                "Q": p.Q,
                "y_stride": output_stride(p),
                "residual_stride": p.residual_stride,
                "tiles": tiles,
            },
            {
                "R": p.R,
                "S": p.S,
                "STRIDE": p.stride[0],
                "PAD_H": p.padding[0],
                "PAD_W": p.padding[2],
                "DILATION_H": p.dilation[0],
                "DILATION_W": p.dilation[1],
                "X_STRIDE": p.x_stride,
                "ACTIVATION": p.activation,
                "HAS_BIAS": p.has_bias,
                "HAS_RESIDUAL": p.has_residual,
                "PERSISTENT": config.persistent,
                "PRECISION": self.gemm.precision,
                "INT64": self._needs_int64,
                "TILE_N": images,
                "TILE_P": rows,
                "TILE_Q": columns,
                "BLOCK_N": config.block_n,
                "BLOCK_K": block_k,
            },
            (grid,),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )

    def _pointers(self) -> Conv2d:
        """The same problem without descriptors, for tensors that do not begin at a multiple of 16 bytes."""
        if self._unaligned is None:
            tf32 = self.gemm.precision == "tf32"
            self._unaligned = Conv2d(self.problem, self.target, allow_tf32=tf32, descriptor=False)
        return self._unaligned

    def __call__(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
        y: torch.Tensor,
    ) -> None:
        if self.config.descriptor and (x.data_ptr() | weight.data_ptr()) % 16:
            return self._pointers()(x, weight, bias, residual, y)
        # Absent pointers are never read; the kernel still has the parameter.
        bias = y if bias is None else bias
        residual = y if residual is None else residual
        if self.config.splits == 1:
            self.launches[0](x, weight, bias, residual, y)
            return
        partial = common.workspace(self.config.splits * self.gemm.M * self.problem.K, x.device)
        self.launches[0](x, weight, bias, residual, partial)
        self.launches[1](partial, bias, residual, y)


MOST_GROUPED = 8  # channels of a group, in or out; tensor cores take wider ones


def pack_grouped(weight: torch.Tensor) -> torch.Tensor:
    """(K, C/groups, R, S) -> rows (R, S, c; K): neighbouring output channels beside each other."""
    return weight.detach().permute(2, 3, 1, 0).contiguous()


def grouped(p: Conv2dProblem) -> Launch:
    """The launch for narrow groups; called with (x, packed weight, bias, residual, y)."""
    M, y_stride = p.N * p.P * p.Q, output_stride(p)
    tile = RowTile.of(p.K)
    return Launch(
        kernels.conv2d_grouped_kernel,
        [p.dtype] * 5,
        {
            "M": M, "H": p.H, "W": p.W, "K": p.K, "P": p.P, "Q": p.Q,
            "x_stride": p.x_stride, "y_stride": y_stride, "residual_stride": p.residual_stride,
        },
        {
            "R": p.R, "S": p.S, "STRIDE_H": p.stride[0], "STRIDE_W": p.stride[1], "PAD_H": p.padding[0],
            "PAD_W": p.padding[2], "DILATION_H": p.dilation[0], "DILATION_W": p.dilation[1],
            "GROUP_IN": p.C // p.groups, "GROUP_OUT": p.K // p.groups,
            "ACTIVATION": p.activation, "HAS_BIAS": p.has_bias, "HAS_RESIDUAL": p.has_residual,
            "INT64": common.needs_int64(p.N * p.H * p.W * p.x_stride, M * max(y_stride, p.residual_stride)),
            "BLOCK_P": tile.pixels, "BLOCK_C": tile.channels,
        },
        tile.grid(M, p.K),
    )  # fmt: skip
