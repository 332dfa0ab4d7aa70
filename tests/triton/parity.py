"""Inputs with poisoned neighbours, and the error bound, shared by the interpreted tests."""

from __future__ import annotations

import torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
POISON = 12345.0


class Slice:
    """A channels_last tensor (N, H, W, C): a channel slice of a wider one, between two more images, all poison."""

    def __init__(self, n, h, w, c, dtype, *, before=0, after=0, values=None, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.guarded = torch.full((n + 2, h, w, before + c + after), POISON, dtype=dtype)
        self.wide = self.guarded[1 : n + 1]
        self.before, self.c = before, c
        if values is None:
            values = torch.randn(n, h, w, c, generator=generator)
        self.nhwc = self.wide[..., before : before + c]
        self.nhwc.copy_(values)

    @property
    def stride(self) -> int:
        return self.wide.shape[-1]

    @property
    def nchw(self) -> torch.Tensor:
        return self.nhwc.permute(0, 3, 1, 2)

    def assert_neighbours_kept(self) -> None:
        kept = self.guarded.clone()
        kept[1:-1, ..., self.before : self.before + self.c] = POISON
        assert (kept == POISON).all(), "the kernel wrote outside its channel slice"


def check(got: torch.Tensor, reference, *inputs: torch.Tensor, floor_scale: float = 1.0) -> None:
    """got is within twice PyTorch's own error of float64, plus floor_scale epsilons of the largest value."""
    compare(got, reference(*inputs), reference(*[x.double() for x in inputs]), floor_scale)


def compare(got: torch.Tensor, own: torch.Tensor, exact: torch.Tensor, floor_scale: float) -> None:
    """The same, of results that are there: `own` PyTorch's, `exact` that in float64."""
    got64, own64 = got.double(), own.double()
    assert got64.shape == exact.shape
    assert torch.equal(got64.isnan(), exact.isnan()), "NaN in different places"
    largest = torch.finfo(got.dtype).max
    infinite = exact.isinf() | (exact.abs() > largest)
    assert torch.equal(got64[infinite].sign(), exact[infinite].sign())
    finite = exact.isfinite() & ~infinite
    if not finite.any():
        return
    scale = exact[finite].abs().max().item()
    own_error = (own64[finite] - exact[finite]).abs().max().item()
    error = (got64[finite] - exact[finite]).abs().max().item()
    bound = 2 * own_error + floor_scale * torch.finfo(got.dtype).eps * max(scale, 1e-6)
    assert error <= bound, f"error {error:.3g} against float64, PyTorch's own is {own_error:.3g}, bound {bound:.3g}"
