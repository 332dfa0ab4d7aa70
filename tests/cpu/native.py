"""What the tests of the native CPU kernels share: problems, poisoned channel slices, accuracy."""

from typing import Any

import torch

from fastcnn import _C

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def native_dtype(dtype: torch.dtype) -> Any:
    return getattr(_C.DType, str(dtype).removeprefix("torch."))


def problem(kind: str, **fields: Any) -> Any:
    result = getattr(_C, kind + "Problem")()
    for name, value in fields.items():
        setattr(result, name, native_dtype(value) if name.endswith("dtype") else value)
    return result


def pixel_stride(x: torch.Tensor) -> int:
    """Of a channels-last tensor (..., C)."""
    return x.stride(-2)


class Slice:
    """A channels-last tensor (..., C) inside a wider one, whose other channels must keep their value."""

    POISON = 12345.0

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, extra: int = 7, offset: int = 3) -> None:
        self.wide = torch.full((*shape[:-1], shape[-1] + extra), self.POISON, dtype=dtype)
        self.slice = slice(offset, offset + shape[-1]) if extra else slice(0, shape[-1])
        self.data = self.wide[..., self.slice]

    def assert_neighbours_untouched(self) -> None:
        neighbours = self.wide.clone()
        neighbours[..., self.slice] = self.POISON
        poison = torch.tensor(self.POISON, dtype=self.wide.dtype)
        assert (neighbours == poison).all(), "wrote outside the channel slice"


def sliced(x: torch.Tensor, extra: int = 7, offset: int = 3) -> torch.Tensor:
    """x (..., C) as a channel slice of a wider tensor full of NaN."""
    wide = torch.full((*x.shape[:-1], x.shape[-1] + extra), float("nan"), dtype=x.dtype)
    wide[..., offset : offset + x.shape[-1]] = x
    return wide[..., offset : offset + x.shape[-1]]


def nchw(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def nhwc(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


def assert_as_accurate(ours: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor, units: int = 1) -> None:
    """At most twice PyTorch's error against float64, with a floor of some units in the last place; NaN and
    infinity in the same places."""
    assert ours.dtype == theirs.dtype
    a, b, exact = ours.double(), theirs.double(), exact.double()
    assert torch.equal(a.isnan(), b.isnan()), "NaN in other places than PyTorch"
    assert torch.equal(a.isinf(), b.isinf()), "infinity in other places than PyTorch"
    finite = b.isfinite()
    if not finite.any():
        return
    a, b, exact = a[finite], b[finite], exact[finite]
    floor = units * torch.finfo(ours.dtype).eps * exact.abs().max()
    error, allowed = (a - exact).abs().max(), 2 * (b - exact).abs().max() + floor
    assert error <= allowed, f"error {error:.3g}, PyTorch's {(b - exact).abs().max():.3g}"
