"""What the tests of CUDA kernels share: where a kernel runs, tensors with poisoned surroundings, the parity rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import emulation
import torch

from fastcnn import _C

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
Address = torch.Tensor | None


def problem(name: str, **fields: Any) -> Any:
    """A problem struct with the given fields."""
    struct = getattr(_C, name)()
    for field, value in fields.items():
        if field == "dtype":
            value = getattr(_C.DType, DTYPES[value])
        elif field == "activation":
            value = getattr(_C.Activation, value or "none")
        elif field == "mode":
            value = getattr(_C.PoolMode, value)
        setattr(struct, field, value)
    return struct


class Emulated:
    """Runs kernels on the emulator."""

    device = "cpu"

    def __init__(self, order: str = "random", lazy: bool = True, seed: int = 1, emulator: Any = None) -> None:
        self.emulator = emulator or emulation.load()
        self.cuda = self.emulator.cuda
        self.settings = {"order": order, "lazy": lazy, "seed": seed}

    def run(self, function: Any, *leading: Any, read: Sequence[Address], write: Sequence[Address]) -> None:
        """function(*leading, addresses of read, addresses of write, stream)."""
        self.emulator.configure(**self.settings)
        with self.emulator.memory(list(read), list(write)):
            function(*leading, *map(address, read), *map(address, write), 0)


class Gpu:
    """Runs kernels on the current CUDA device."""

    device = "cuda"

    def __init__(self) -> None:
        self.cuda = _C.cuda

    def run(self, function: Any, *leading: Any, read: Sequence[Address], write: Sequence[Address]) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        function(*leading, *map(address, read), *map(address, write), stream)
        torch.cuda.synchronize()


def address(tensor: Address) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def pixels(
    N: int, C: int, H: int, W: int, dtype: torch.dtype, *, device: str, stride: int | None = None, offset: int = 0,
    fill: float | None = None, seed: int = 0,
) -> torch.Tensor:  # fmt: skip
    """An (N, C, H, W) channels_last view of random numbers, `offset` channels into pixels of `stride` channels.

    What surrounds the slice is NaN: whatever reads it shows. fill: a constant instead of random numbers.
    """
    stride = stride or C + offset
    wide = torch.full((N, H, W, stride), float("nan"), dtype=dtype)
    view = wide[..., offset : offset + C]
    if fill is None:
        view.copy_(torch.randn(N, H, W, C, generator=torch.Generator().manual_seed(seed)))
    else:
        view.fill_(fill)
    return wide.to(device)[..., offset : offset + C].permute(0, 3, 1, 2)


def surroundings_untouched(view: torch.Tensor) -> bool:
    """Whether everything in the view's storage outside the view is still NaN."""
    outside = torch.ones(view.untyped_storage().nbytes() // view.element_size(), dtype=torch.bool)
    torch.as_strided(outside, view.shape, view.stride(), view.storage_offset()).fill_(False)
    everything = torch.as_strided(view, (outside.numel(),), (1,), 0).cpu()
    return bool(everything[outside].isnan().all())


def assert_parity(
    actual: torch.Tensor, exact: torch.Tensor, torch_result: torch.Tensor | None = None, slack: float = 0.0
) -> None:
    """At most twice PyTorch's own error in this dtype against float64, with a floor of one rounding.

    slack: allowed beyond that, relative to the largest result.
    """
    actual64 = actual.detach().cpu().double()
    assert torch.equal(actual64.isnan(), exact.isnan()), "NaN in other places than the exact result"
    infinite = exact.isinf()
    assert torch.equal(actual64[infinite], exact[infinite])
    finite = torch.isfinite(exact)
    if not finite.any():
        return
    eps = torch.finfo(actual.dtype).eps
    allowed = eps * exact[finite].abs() + (eps * 1e-2 + slack) * exact[finite].abs().max()
    if torch_result is not None:
        allowed = allowed + 2 * (torch_result.double() - exact)[finite].abs().max()
    error = (actual64 - exact)[finite].abs()
    worst = (error - allowed).argmax()
    assert (error <= allowed).all(), f"error {error[worst]:.3g}, allowed {allowed[worst]:.3g}"
