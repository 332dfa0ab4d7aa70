"""The problems whose kernels are compiled ahead: one list names, compiles and checks every Triton kernel."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fastcnn import ops
from fastcnn.backends.triton.backend import DTYPES
from fastcnn.backends.triton.common import Launch
from fastcnn.backends.triton.target import TARGETS, Target
from fastcnn.core.selector import SELECTORS
from fastcnn.ops.conv2d.contract import Conv2dProblem
from fastcnn.ops.conv2d.triton_launch import Conv2d, candidates, gemm_of, grouped
from fastcnn.ops.conv2d_max_pool2d.triton_kernels import Conv2dMaxPool2d
from fastcnn.ops.linear.triton import as_conv2d

# (N, H, C, K, kernel, stride, groups, residual), each from a network that the project carries
CONVOLUTIONS = {
    "ResNet res2 3x3": (32, 56, 64, 64, 3, 1, 1, False),
    "ResNet res3 3x3 stride 2": (32, 56, 128, 128, 3, 2, 1, False),
    "ResNet res4 3x3 batch 1": (1, 14, 256, 256, 3, 1, 1, False),
    "ResNet res3 1x1 + residual": (32, 28, 128, 512, 1, 1, 1, True),
    "ResNet projection stride 2": (32, 56, 256, 512, 1, 2, 1, False),
    "ResNet stem 7x7": (32, 224, 3, 64, 7, 2, 1, False),
    "AlexNet stem 11x11": (32, 224, 3, 96, 11, 4, 1, False),
    "AlexNet 5x5 groups 2": (32, 27, 96, 256, 5, 1, 2, False),
    "GoogLeNet merged 1x1": (32, 28, 192, 176, 1, 1, 1, False),
    "GoogLeNet 5x5": (32, 28, 16, 32, 5, 1, 1, False),
    "VGG 3x3": (32, 28, 512, 512, 3, 1, 1, False),
    "LeNet 5x5": (32, 32, 1, 6, 5, 1, 1, False),
}
# (N, H, C, K, kernel, stride, padding), then the pool's arguments
STEMS = {
    "ResNet stem": ((32, 224, 3, 64, 7, 2, 3), (3, 2, 1, 1, False)),
    "AlexNet stem": ((32, 224, 3, 96, 11, 4, 2), (3, 2, 0, 1, False)),
    "LeNet stem": ((32, 32, 1, 6, 5, 1, 0), (2, 2, 0, 1, False)),
}
GROUPED = {"depthwise": (32, 56, 192, 192, 3, 1, 192, False), "groups of 4": (32, 56, 128, 128, 3, 2, 32, True)}
LINEARS = {"linear batch 1": (1, 4096, 4096), "linear batch 128": (128, 9216, 4096)}


def meta(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.empty(shape, dtype=dtype, device="meta")
    return x.to(memory_format=torch.channels_last) if len(shape) == 4 else x


def problem(operator: Any, tensors: Sequence[torch.Tensor | None], params: tuple[Any, ...]) -> Any:
    return operator.infer((*tensors, None), operator.normalise(tensors, params))


def conv2d_problem(
    dtype: torch.dtype, N: int, H: int, C: int, K: int, kernel: int, stride: int, groups: int, residual: bool
) -> Conv2dProblem:
    pad = kernel // 2
    P = (H + 2 * pad - kernel) // stride + 1
    tensors = (
        meta(N, C, H, H, dtype=dtype),
        meta(K, C // groups, kernel, kernel, dtype=dtype),
        meta(K, dtype=dtype),
        meta(N, K, P, P, dtype=dtype) if residual else None,
    )
    return problem(ops.conv2d, tensors, (stride, pad, 1, groups, "relu"))


def cases(arch: int, *, every: bool = False) -> Iterator[tuple[str, Launch]]:
    """(name, launch) of each kernel in each dtype; names end in the dtype, tf32x3 being strict float32."""
    target = TARGETS[arch]
    for dtype, dtype_name in DTYPES.items():
        for name, launch in (*_alike(dtype), *_memory_bound(dtype)):
            yield f"{name} {dtype_name}", launch
        for tf32 in (True, False) if dtype == torch.float32 else (True,):
            suffix = {torch.float32: "tf32" if tf32 else "tf32x3"}.get(dtype, dtype_name)
            for name, launch in _tiled(dtype, tf32, target, every):
                yield f"{name} {suffix}", launch


def _alike(dtype: torch.dtype) -> Iterator[tuple[str, Launch]]:
    """The operators whose Triton kernel has their name and is one launch: at the largest problem of their races."""
    for name, selector in SELECTORS.items():
        module = selector.infer.__module__.rpartition(".")[0] + ".triton_kernels"
        if importlib.util.find_spec(module) is None:
            continue
        launcher = getattr(importlib.import_module(module), name, None)
        if launcher is not None:
            case = selector.races[-1]
            tensors = [None if shape is None else meta(*shape, dtype=dtype) for shape in case.shapes]
            yield name, launcher(problem(selector, tensors, case.params))


def _memory_bound(dtype: torch.dtype) -> Iterator[tuple[str, Launch]]:
    from fastcnn.ops.add_relu.triton_kernels import add_relu
    from fastcnn.ops.concat.triton_kernels import copy_slice
    from fastcnn.ops.lrn.triton_kernels import lrn
    from fastcnn.ops.lrn_max_pool2d.triton_kernels import lrn_max_pool2d
    from fastcnn.ops.pool.triton_kernels import pool2d

    x = meta(32, 192, 56, 56, dtype=dtype)
    normalise = problem(ops.local_response_norm, (x,), (5, 1e-4, 0.75, 2.0))
    pool = problem(ops.max_pool2d, (x,), (3, 2, 1, 1, False))
    yield "lrn", lrn(normalise)
    fused = problem(ops.lrn_max_pool2d, (x,), ((5, 1e-4, 0.75, 2.0), (3, 2, 0, 1, False)))
    yield "lrn_max_pool2d", lrn_max_pool2d(fused)
    yield "max_pool2d", pool2d(pool)
    yield "avg_pool2d", pool2d(problem(ops.avg_pool2d, (x,), (3, 2, 1, False, True, None)))
    adding = problem(ops.add_relu, (x, x), ())
    yield "add_relu of slices", add_relu(adding._replace(flat=False, a_stride=256))
    joined = problem(ops.concat, (x, x), ())
    yield "copy_slice", copy_slice(joined, joined.C[0], joined.x_stride[0])


def _tiled(dtype: torch.dtype, tf32: bool, target: Target, every: bool) -> Iterator[tuple[str, Launch]]:
    for name, sizes in GROUPED.items():
        yield f"grouped {name}", grouped(conv2d_problem(dtype, *sizes))
    for name, sizes in CONVOLUTIONS.items():
        p = conv2d_problem(dtype, *sizes)
        yield from _conv2d(name, Conv2d(p, target, allow_tf32=tf32))
    for name, (N, D, M) in LINEARS.items():
        tensors = (meta(N, D, dtype=dtype), meta(M, D, dtype=dtype), meta(M, dtype=dtype))
        yield from _conv2d(name, Conv2d(as_conv2d(problem(ops.linear, tensors, ("relu",))), target, allow_tf32=tf32))
    for name, ((N, H, C, K, kernel, stride, pad), pool) in STEMS.items():
        images, weight = meta(N, C, H, H, dtype=dtype), meta(K, C, kernel, kernel, dtype=dtype)
        params = ((stride, pad, 1, 1, "relu"), pool)
        stem = problem(ops.conv2d_max_pool2d, (images, weight, meta(K, dtype=dtype), None), params)
        yield f"conv2d_max_pool2d {name}", Conv2dMaxPool2d(stem, allow_tf32=tf32).launch
    if every:
        for kernel in (1, 3):
            p = conv2d_problem(dtype, 32, 56, 128, 128, kernel, 1, 1, True)
            for config in candidates(p, target, gemm_of(p, tf32)):
                if config.splits <= 2 and config.shared_bytes <= target.shared_per_block:
                    yield from _conv2d(f"{kernel}x{kernel}", Conv2d(p, target, allow_tf32=tf32, config=config))


def _conv2d(name: str, conv: Conv2d) -> Iterator[tuple[str, Launch]]:
    yield f"conv2d {name}: {conv.config}", conv.launches[0]
    for launch in conv.launches[1:]:
        yield f"conv2d {name}: sum of {conv.config.splits} splits", launch
