"""The pools by the native CPU kernels."""

from __future__ import annotations

from fastcnn.backends import cpu as native_cpu
from fastcnn.core import native
from fastcnn.ops.pool.contract import AdaptiveAvgPool2dProblem, Pool2dProblem


def native_pool2d(p: Pool2dProblem) -> native.extension.Pool2dProblem:
    return native.struct(
        native.extension.Pool2dProblem,
        dtype=p.dtype,
        mode=getattr(native.extension.PoolMode, p.mode),
        **{name: getattr(p, name) for name in ("N", "H", "W", "C", "P", "Q", "x_stride", "y_stride")},
        kernel_h=p.kernel_size[0], kernel_w=p.kernel_size[1],
        stride_h=p.stride[0], stride_w=p.stride[1],
        pad_h=p.padding[0], pad_w=p.padding[1],
        dilation_h=p.dilation[0], dilation_w=p.dilation[1],
        count_include_pad=p.count_include_pad,
        divisor_override=p.divisor_override or 0,
    )  # fmt: skip


def native_adaptive_avg_pool2d(p: AdaptiveAvgPool2dProblem) -> native.extension.AdaptiveAvgPool2dProblem:
    names = ("dtype", "N", "H", "W", "C", "P", "Q", "x_stride", "y_stride")
    return native.struct(native.extension.AdaptiveAvgPool2dProblem, **{name: getattr(p, name) for name in names})


POOL_CANDIDATES = native_cpu.unary_candidates("pool2d", native_pool2d)
ADAPTIVE_CANDIDATES = native_cpu.unary_candidates("adaptive_avg_pool2d", native_adaptive_avg_pool2d)
