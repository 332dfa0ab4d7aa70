"""channels_last views and the pixel stride by which kernels know them (see csrc/base/problem.h)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pixel_stride(tensor: Tensor) -> int | None:
    """The distance, in elements, from one pixel of a channels_last (N, C, H, W) view to the next.

    C for a dense tensor, more for a channel slice of a wider one, None for any other layout.
    """
    N, C, H, W = tensor.shape
    stride_n, stride_c, stride_h, stride_w = tensor.stride()
    if C > 1 and stride_c != 1:
        return None
    if W > 1:
        pixel = stride_w
    elif H > 1:
        pixel = stride_h
    elif N > 1:
        pixel = stride_n
    else:
        pixel = C
    if pixel < C or (H > 1 and stride_h != W * pixel) or (N > 1 and stride_n != H * W * pixel):
        return None
    return pixel


def channels_last(tensor: Tensor) -> Tensor:
    """The tensor itself if a kernel can read it in place, else a dense channels_last copy."""
    if tensor.is_contiguous(memory_format=torch.channels_last) or pixel_stride(tensor) is not None:
        return tensor
    return torch.empty_like(tensor, memory_format=torch.channels_last).copy_(tensor)


def input_stride(tensor: Tensor) -> int:
    """The pixel stride of `channels_last(tensor)`."""
    stride = pixel_stride(tensor)
    return tensor.shape[1] if stride is None else stride


def strides(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Those of a dense channels_last tensor."""
    _, C, H, W = shape
    return H * W * C, 1, W * C, C


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Those of a dense tensor in PyTorch's own order."""
    return torch.empty(shape, device="meta").stride()


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """An uninitialised dense channels_last tensor of `like`'s dtype and device."""
    return like.new_empty_strided(shape, strides(shape))  # a third faster than torch.empty_strided


def may_overlap(out: Tensor, other: Tensor | None) -> bool:
    """Whether writing `out` could change `other`: false for disjoint channel slices of one tensor."""
    if other is None or out.numel() == 0 or other.numel() == 0:
        return False
    if out.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
        return False
    a0, b0 = out.storage_offset(), other.storage_offset()
    a1, b1 = (
        t.storage_offset() + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) for t in (out, other)
    )
    if a1 < b0 or b1 < a0:
        return False
    if out.dtype == other.dtype and out.dim() == other.dim() == 4:
        stride = pixel_stride(out)
        if stride is not None and stride == pixel_stride(other):
            a, b = a0 % stride, b0 % stride
            disjoint = a + out.shape[1] <= b or b + other.shape[1] <= a
            return not (disjoint and max(a + out.shape[1], b + other.shape[1]) <= stride)
    return True


def output_stride(out: Tensor | None, C: int, *inputs: Tensor | None) -> int | None:
    """The pixel stride at which a kernel may write `out` (C if there is none); None if it may not write it."""
    if out is None:
        return C
    if any(may_overlap(out, t) for t in inputs):
        return None
    return pixel_stride(out)


def is_gapless(tensor: Tensor) -> bool:
    """Whether the strides, in whatever order, are those of a tensor without gaps or overlaps."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def dense_alike(a: Tensor, b: Tensor) -> bool:
    """Whether both tensors fill one run of memory in the same order, so that they can be read as flat arrays."""
    return a.stride() == b.stride() and is_gapless(a)
