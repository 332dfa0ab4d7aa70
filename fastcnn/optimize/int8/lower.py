"""The operators on bytes as kernel calls of a plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastcnn.core import native
from fastcnn.optimize.int8 import vocabulary as q
from fastcnn.optimize.network import Node


def _sizes(c: Any, x: Node, y: Node) -> dict[str, int]:
    (N, C, H, W), (P, Q) = c.meta[x].shape, c.meta[y].shape[2:]
    return {"N": N, "C": C, "H": H, "W": W, "P": P, "Q": Q, "x_stride": c.stride(x), "y_stride": c.stride(y)}


def _pixels(c: Any, x: Node) -> dict[str, int]:
    N, C, H, W = c.meta[x].shape
    return {"pixels": N * H * W, "C": C}


def _pairs(**pairs: tuple[int, int]) -> dict[str, int]:
    return {f"{name}_{axis}": size for name, pair in pairs.items() for axis, size in zip("hw", pair, strict=True)}


def _emit_conv2d(c: Any, node: Node) -> None:
    x, filter, residual = (*node.args, None)[:3]
    options = dict(node.kwargs)
    K, _, R, S = c.meta[filter][0].shape
    top, _, left, _ = options.pop("padding")
    problem = native.struct(
        native.extension.Int8Conv2dProblem,
        **_sizes(c, x, node), K=K, R=R, S=S, pad_h=top, pad_w=left,
        **_pairs(stride=options.pop("stride"), dilation=options.pop("dilation")),
        has_residual=int(residual is not None), residual_stride=0 if residual is None else c.stride(residual),
        float_output=int(options.pop("float_output", False)), relu=int(options.pop("relu", False)),
        **{"high": 255, **options},
    )  # fmt: skip
    kernel = native.extension.cpu.Int8Conv2d(problem)

    def fill(values: tuple[Tensor, ...], memory: Tensor) -> None:
        weight, bias, multiplier = (t.contiguous() for t in values)
        kernel.pack(weight.data_ptr(), bias.data_ptr(), multiplier.data_ptr(), memory.data_ptr())

    format = "int8", kernel.name, native.extension.cpu.isa(), problem.groups
    packed = c.constants.filled(
        c.entry(filter), format, lambda: torch.empty(kernel.packed_bytes, dtype=torch.uint8), fill
    )
    address = c.builder.constant(packed)
    c.builder.call("conv2d_int8", kernel, c.place(x), address, c.place(residual), c.place(node), kernel=kernel.name)


def _emit_quantize(c: Any, node: Node) -> None:
    x, inverse_scale, zero = node.args
    N, C, H, W = c.meta[x].shape
    stride = c.stride(x)
    problem = native.struct(
        native.extension.QuantizeProblem,
        N=N, pixels=H * W, C=C, x_image=H * W * stride, x_stride=stride, x_channel=1, y_stride=c.stride(node),
        inverse_scale=inverse_scale, zero=zero,
    )  # fmt: skip
    c.builder.call("quantize", problem, c.place(x), c.place(node))


def _emit_dequantize(c: Any, node: Node) -> None:
    x, scale, zero = node.args
    problem = native.struct(
        native.extension.DequantizeProblem,
        **_pixels(c, x), x_stride=c.stride(x), y_stride=c.stride(node), scale=scale, zero=zero,
    )  # fmt: skip
    c.builder.call("dequantize", problem, c.place(x), c.place(node))


def _emit_table(c: Any, node: Node) -> None:
    x, table = node.args
    problem = native.struct(
        native.extension.ByteTableProblem, **_pixels(c, x), x_stride=c.stride(x), y_stride=c.stride(node)
    )
    values = c.constants.form(c.entry(table), "table", lambda values: values.contiguous())
    c.builder.call("byte_table", problem, c.place(x), c.builder.constant(values), c.place(node))


def _emit_add(c: Any, node: Node) -> None:
    a, b = node.args
    problem = native.struct(
        native.extension.Int8AddProblem,
        **_pixels(c, a), a_stride=c.stride(a), b_stride=c.stride(b), y_stride=c.stride(node), **node.kwargs,
    )  # fmt: skip
    c.builder.call("int8_add", problem, c.place(a), c.place(b), c.place(node))


def _emit_pool(c: Any, node: Node) -> None:
    x, k = node.args[0], node.kwargs
    average = node.target is q.avg_pool2d
    options: dict[str, Any] = {"mode": getattr(native.extension.PoolMode, "average" if average else "max")}
    if average:
        options.update({name: k[name] for name in ("scale", "x_zero", "y_zero")})
        options.update(count_include_pad=int(k["count_include_pad"]), divisor_override=k["divisor_override"] or 0)
    problem = native.struct(
        native.extension.Int8PoolProblem,
        **_sizes(c, x, node),
        **_pairs(
            kernel=k["kernel_size"], stride=k["stride"], pad=k["padding"], dilation=k.get("dilation", (1, 1))
        ),
        **options,
    )  # fmt: skip
    c.builder.call("int8_pool2d", problem, c.place(x), c.place(node), kernel="average" if average else "max")


EMITS = {
    q.conv2d: _emit_conv2d,
    q.quantize: _emit_quantize,
    q.dequantize: _emit_dequantize,
    q.table: _emit_table,
    q.add: _emit_add,
    q.max_pool2d: _emit_pool,
    q.avg_pool2d: _emit_pool,
}
# The arguments that are constants in a kernel's own form, by their places.
WEIGHTS = {q.conv2d: (1,), q.table: (1,)}
