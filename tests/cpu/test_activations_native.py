"""Every activation of the table on the CPU, on the whole line, on every instruction set."""

from __future__ import annotations

import pytest
import torch
from native import DTYPES, problem

from fastcnn import _C
from fastcnn.core.activations import TABLE

EPSILON = 2.0**-24


def run(name: str, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    p = problem("Elementwise", dtype=x.dtype, function=getattr(_C.Elementwise, name), pixels=x.shape[0], C=x.shape[1])
    p.a_stride = p.y_stride = x.shape[1]
    return _C.cpu.elementwise(p, 2)(x, None, y)


def line() -> torch.Tensor:
    """Numbers of every size, dense where the functions bend."""
    small = torch.logspace(-40, 2, 4001)
    parts = [torch.linspace(-110, 110, 50_001), torch.linspace(-7, 7, 50_001), torch.linspace(-1, 1, 20_001), small]
    parts += [-small, torch.tensor([0.0, 3e38, -3e38, 20.0, 6.0, 3.0, -3.0, 0.625])]
    return torch.cat(parts)[:, None]


@pytest.mark.parametrize("name", TABLE)
def test_on_the_whole_line(isa: str, name: str) -> None:
    """No element errs more, against its own size, than twice PyTorch's worst or four units in the last place."""
    x = line()
    exact = TABLE[name].apply(x.double())
    # What is smaller counts as this; PyTorch's definitions of GELU cancel in float64 too where x is below -5.
    size = exact.abs().maximum(torch.where(x.abs() < 5, 1e-30, 1e-7))

    def errors(y: torch.Tensor) -> torch.Tensor:
        return (y.double() - exact).abs() / size / EPSILON

    theirs = errors(TABLE[name].apply(x))
    ours = float(errors(run(name, x)).max())
    worst = float(theirs[theirs.isfinite()].max())
    assert ours <= max(2 * worst, 8), f"{ours:.3g} half units in the last place, PyTorch {worst:.3g}"


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_infinity_and_zero(isa: str, name: str, dtype: torch.dtype) -> None:
    """As float64 has them: float32's own gelu(inf) is NaN in PyTorch."""
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([inf, -inf, nan, 0.0, -0.0, 1.0, -1.0]).repeat(11)[:, None].to(dtype)  # vectors and a rest
    y, exact = run(name, x).double(), TABLE[name].apply(x.double())
    assert torch.equal(y.isnan(), exact.isnan())
    assert torch.equal(y.isinf(), exact.isinf())
    rest = ~exact.isnan()
    assert torch.equal(y[rest].sign(), exact[rest].sign())
    torch.testing.assert_close(y[rest], exact[rest], rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_half_precision(isa: str, name: str, dtype: torch.dtype) -> None:
    """Computed in float32 and rounded once. (1e-10: GELU where x is below -6.)"""
    x = torch.linspace(-8, 8, 999)[:, None].to(dtype)
    exact = TABLE[name].apply(x.double())
    error = (run(name, x).double() - exact).abs()
    assert (error <= exact.abs() * torch.finfo(dtype).eps * 0.51 + max(torch.finfo(dtype).tiny, 1e-10)).all()
