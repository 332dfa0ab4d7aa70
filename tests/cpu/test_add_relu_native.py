import pytest
import torch
from native import DTYPES, Slice, assert_as_accurate, pixel_stride, problem, sliced

from fastcnn import _C


def run(a: torch.Tensor, b: torch.Tensor, y: torch.Tensor, threads: int) -> None:
    p = problem(
        "AddRelu",
        dtype=a.dtype,
        pixels=a.shape[0],
        C=a.shape[1],
        a_stride=pixel_stride(a),
        b_stride=pixel_stride(b),
        y_stride=pixel_stride(y),
    )
    _C.cpu.add_relu(p, threads)(a, b, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("pixels", "C"), [(0, 8), (1, 1), (37, 3), (5, 64), (1000, 33)])
@pytest.mark.parametrize("extra", [0, 7])
def test_matches_pytorch(isa: str, dtype: torch.dtype, pixels: int, C: int, extra: int) -> None:
    a, b = torch.randn(2, pixels, C, dtype=torch.float64).to(dtype)
    if pixels:
        a[0, 0], b[-1, -1] = float("nan"), float("inf")
    out = Slice((pixels, C), dtype, extra)
    run(sliced(a) if extra else a, b, out.data, 3)
    assert_as_accurate(out.data, torch.relu(a + b), torch.relu(a.double() + b.double()))
    out.assert_neighbours_untouched()


def test_beyond_the_caches(isa: str) -> None:
    a, b = torch.randn(2, 30_001, 600)  # 72 MB each: streaming stores
    y = torch.empty_like(a)
    run(a, b, y, 2)
    assert torch.equal(y, torch.relu(a + b))


def test_in_place(isa: str) -> None:
    a, b = torch.randn(2, 100, 65)
    expected = torch.relu(a + b)
    run(a, b, a, 2)
    assert torch.equal(a, expected)
