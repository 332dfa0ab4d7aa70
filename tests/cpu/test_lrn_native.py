import pytest
import torch
import torch.nn.functional as F
from native import DTYPES, Slice, assert_as_accurate, nchw, nhwc, pixel_stride, problem, sliced

from fastcnn import _C


def lrn_problem(x: torch.Tensor, y_stride: int, size: int, alpha: float, beta: float, k: float) -> object:
    C = x.shape[-1]
    return problem(
        "Lrn",
        dtype=x.dtype,
        pixels=x.numel() // C,
        **{"C": C, "size": size, "alpha": alpha, "beta": beta, "k": k},
        x_stride=pixel_stride(x),
        y_stride=y_stride,
    )


def reference(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """PyTorch has no 16-bit LRN on the CPU: there, its float32 result, rounded."""
    compute = x.float() if x.element_size() == 2 else x
    return nhwc(F.local_response_norm(nchw(compute), size, alpha, beta, k)).to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 3, 5, 64), (2, 7, 3, 96), (1, 5, 5, 3), (3, 4, 4, 37), (1, 1, 1, 1)])
@pytest.mark.parametrize(
    ("size", "alpha", "beta", "k"),
    [
        (5, 1e-4, 0.75, 1.0),  # PyTorch's own constants
        (5, 5e-4 * 5, 0.75, 2.0),  # AlexNet's
        (5, 0.5, 0.75, 0.1),
        (3, 0.1, 0.5, 1.0),
        (4, 0.1, 1.0, 1.0),
        (1, 2.0, 0.9, 1e-3),
        (11, 1.0, 2.3, 0.7),
    ],
)
def test_matches_pytorch(isa, dtype, shape, size, alpha, beta, k) -> None:
    x = sliced((3 * torch.randn(shape)).to(dtype))
    out = Slice(shape, dtype)
    p = lrn_problem(x, pixel_stride(out.data), size, alpha, beta, k)
    _C.cpu.lrn(p, 3)(x, out.data)
    assert_as_accurate(out.data, reference(x, size, alpha, beta, k), reference(x.double(), size, alpha, beta, k))
    out.assert_neighbours_untouched()


@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_not_a_number_and_infinity(isa: str, beta: float) -> None:
    x = torch.randn(1, 2, 3, 50)
    x[0, 0, 0, 20], x[0, 1, 1, 40], x[0, 1, 2, 0] = float("nan"), float("inf"), 1e30
    y = torch.empty_like(x)
    _C.cpu.lrn(lrn_problem(x, 50, 5, 1e-4, beta, 1.0), 1)(x, y)
    expected = reference(x, 5, 1e-4, beta, 1.0)
    assert torch.equal(y.isnan(), expected.isnan())
    torch.testing.assert_close(y, expected, equal_nan=True)


@pytest.mark.parametrize("beta", [0.75, 0.6, 2.0])
def test_zero_and_negative_base(isa: str, beta: float) -> None:
    x = torch.zeros(1, 1, 1, 40)
    x[..., 20] = 3.0
    for alpha, k in [(1.0, 0.0), (-1.0, 0.5)]:
        y = torch.empty_like(x)
        _C.cpu.lrn(lrn_problem(x, 40, 3, alpha, beta, k), 1)(x, y)
        torch.testing.assert_close(y, reference(x, 3, alpha, beta, k), equal_nan=True)


def test_beyond_the_caches(isa: str) -> None:
    x = torch.randn(8, 112, 112, 192)
    y = torch.empty_like(x)
    _C.cpu.lrn(lrn_problem(x, 192, 5, 1e-4, 0.75, 1.0), 2)(x, y)
    torch.testing.assert_close(y, reference(x, 5, 1e-4, 0.75, 1.0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(0, 5, 5, 8), (1, 27, 27, 96), (3, 9, 14, 33), (1, 3, 4, 5)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 2, 0, 1), (3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 1, 2)]
)
def test_fused_with_max_pool(isa, dtype, threads, shape, kernel, stride, padding, dilation) -> None:
    x = torch.randn(shape).to(dtype)
    if shape[0]:
        x[0, 0, 1, 2] = float("nan")
    x = sliced(x)
    normal = torch.empty(shape, dtype=dtype)
    p = lrn_problem(x, shape[-1], 5, 1e-2, 0.75, 1.0)
    _C.cpu.lrn(p, 1)(x, normal)
    expected = nhwc(F.max_pool2d(nchw(normal), kernel, stride, padding, dilation))
    out = Slice(tuple(expected.shape), dtype)
    N, H, W, C = shape
    pool = problem(
        "Pool2d",
        dtype=dtype,
        mode=_C.PoolMode.max,
        **{"N": N, "H": H, "W": W, "C": C, "P": expected.shape[1], "Q": expected.shape[2]},
        **{"kernel_h": kernel, "kernel_w": kernel, "stride_h": stride, "stride_w": stride},
        **{"pad_h": padding, "pad_w": padding},
        **{"dilation_h": dilation, "dilation_w": dilation, "y_stride": pixel_stride(out.data)},
    )
    _C.cpu.lrn_max_pool2d(p, pool, threads)(x, out.data)
    assert torch.equal(out.data.isnan(), expected.isnan())
    assert torch.equal(out.data.nan_to_num(), expected.nan_to_num())
    out.assert_neighbours_untouched()
