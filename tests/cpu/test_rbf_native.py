import pytest
import torch
from native import DTYPES, Slice, assert_as_accurate, problem, sliced

from fastcnn import _C


def run(x: torch.Tensor, centers: torch.Tensor, y: torch.Tensor) -> None:
    p = problem(
        "Rbf",
        dtype=x.dtype,
        **{"N": x.shape[0], "D": x.shape[1], "M": centers.shape[0]},
        x_stride=x.stride(0),
        y_stride=y.stride(0),
    )
    _C.cpu.rbf(p, 3)(x, centers, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "D", "M"), [(0, 84, 10), (1, 84, 10), (300, 84, 10), (7, 5, 1), (65, 33, 4), (3, 1, 7)])
def test_matches_pytorch(isa, dtype, N: int, D: int, M: int) -> None:
    x, centers = torch.randn(N, D).to(dtype), torch.randint(0, 2, (M, D)) * 2.0 - 1
    out = Slice((N, M), dtype)
    run(sliced(x), centers, out.data)
    difference = x[:, None] - centers.to(dtype)
    exact = (x.double()[:, None] - centers.double()).square().sum(-1)
    assert_as_accurate(out.data, difference.square().sum(-1), exact)
    out.assert_neighbours_untouched()


def test_does_not_cancel(isa: str) -> None:
    centers = torch.randn(10, 84) + 1000
    x = centers[3:4].clone()
    y = torch.empty(1, 10)
    run(x, centers, y)
    assert y[0, 3] == 0


def test_not_a_number_and_infinity(isa: str) -> None:
    x, centers, y = torch.randn(4, 20), torch.randn(3, 20), torch.empty(4, 3)
    x[1, 19], x[2, 0] = float("nan"), float("inf")
    run(x, centers, y)
    assert y[1].isnan().all()
    assert y[2].isinf().all()
    assert y[[0, 3]].isfinite().all()
