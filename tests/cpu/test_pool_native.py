import pytest
import torch
import torch.nn.functional as F
from native import DTYPES, Slice, assert_as_accurate, nchw, nhwc, pixel_stride, problem, sliced

from fastcnn import _C


def pool(x: torch.Tensor, y: torch.Tensor, mode: str, **fields: int) -> None:
    _, H, W, C = x.shape
    N, P, Q, _ = y.shape
    p = problem(
        "Pool2d",
        dtype=x.dtype,
        mode=getattr(_C.PoolMode, mode),
        **{
            "N": N,
            "H": H,
            "W": W,
            "C": C,
            "P": P,
            "Q": Q,
            "x_stride": pixel_stride(x),
            "y_stride": pixel_stride(y),
        },
        **{**{"dilation_h": 1, "dilation_w": 1}, **fields},
    )
    _C.cpu.pool2d(p, 3)(x, y)


def window(kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> dict[str, int]:
    return {
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
        "stride_h": stride[0],
        "stride_w": stride[1],
        "pad_h": padding[0],
        "pad_w": padding[1],
    }


SHAPES = [(0, 5, 5, 8), (1, 7, 9, 3), (2, 13, 11, 100)]
WINDOWS = [
    ((3, 3), (2, 2), (1, 1)),
    ((2, 2), (2, 2), (0, 0)),
    ((3, 2), (1, 3), (1, 0)),
    ((5, 5), (2, 3), (2, 2)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max(isa, dtype, shape, ceil_mode) -> None:
    x = torch.randn(shape).to(dtype)
    if shape[0]:
        x[0, 0, 0, 0], x[-1, -1, -1, -1], x[0, 2, 3, 0] = float("nan"), float("inf"), float("-inf")
    x = sliced(x)
    for kernel, stride, padding in WINDOWS:
        expected = nhwc(F.max_pool2d(nchw(x), kernel, stride, padding, ceil_mode=ceil_mode))
        out = Slice(tuple(expected.shape), dtype)
        pool(x, out.data, "max", **window(kernel, stride, padding))
        torch.testing.assert_close(out.data, expected, rtol=0, atol=0, equal_nan=True)
        out.assert_neighbours_untouched()


@pytest.mark.parametrize("where", range(9))
def test_max_keeps_nan_at_any_tap(isa: str, where: int) -> None:
    x = torch.randn(1, 3, 3, 40)
    x[0, where // 3, where % 3, ::3] = float("nan")
    y = torch.empty(1, 1, 1, 40)
    pool(x, y, "max", **window((3, 3), (1, 1), (0, 0)))
    assert y[..., ::3].isnan().all()
    assert torch.equal(y[..., 1::3].flatten(), x[..., 1::3].amax((1, 2)).flatten())


@pytest.mark.parametrize("dilation", [(2, 2), (3, 1)])
def test_max_dilated(isa: str, dilation: tuple[int, int]) -> None:
    x = torch.randn(2, 12, 13, 37)
    expected = nhwc(F.max_pool2d(nchw(x), 3, 2, 1, dilation=dilation))
    y = torch.empty(expected.shape)
    pool(x, y, "max", dilation_h=dilation[0], dilation_w=dilation[1], **window((3, 3), (2, 2), (1, 1)))
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("count_include_pad", "divisor"), [(True, None), (False, None), (True, 5)])
def test_average(isa, dtype, shape, ceil_mode, count_include_pad, divisor) -> None:
    x = sliced(torch.randn(shape).to(dtype))
    for kernel, stride, padding in WINDOWS:
        arguments = (kernel, stride, padding, ceil_mode, count_include_pad, divisor)
        expected = nhwc(F.avg_pool2d(nchw(x), *arguments))
        out = Slice(tuple(expected.shape), dtype)
        fields = {"count_include_pad": int(count_include_pad), "divisor_override": divisor or 0}
        pool(x, out.data, "average", **fields, **window(kernel, stride, padding))
        assert_as_accurate(out.data, expected, nhwc(F.avg_pool2d(nchw(x).double(), *arguments)))
        out.assert_neighbours_untouched()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extra", [0, 5])
def test_narrow_pixels_end_to_end(isa, dtype, extra) -> None:
    """Fewer channels than a vector holds, input without gaps: a kernel of its own."""
    for shape in ((2, 9, 13, 1), (1, 28, 28, 6), (3, 5, 4, 15)):
        x = torch.randn(shape).to(dtype)
        x[0, 2, 3, 0], x[-1, -1, -1, -1] = float("nan"), float("inf")
        for kernel, stride, padding in WINDOWS:
            for ceil_mode in (False, True):
                expected = nhwc(F.max_pool2d(nchw(x), kernel, stride, padding, ceil_mode=ceil_mode))
                out = Slice(tuple(expected.shape), dtype, extra, extra // 2)
                pool(x, out.data, "max", **window(kernel, stride, padding))
                torch.testing.assert_close(out.data, expected, rtol=0, atol=0, equal_nan=True)
                out.assert_neighbours_untouched()
                for include in (False, True):
                    arguments = (kernel, stride, padding, ceil_mode, include)
                    expected = nhwc(F.avg_pool2d(nchw(x), *arguments))
                    out = Slice(tuple(expected.shape), dtype, extra, extra // 2)
                    pool(x, out.data, "average", count_include_pad=int(include), **window(kernel, stride, padding))
                    assert_as_accurate(out.data, expected, nhwc(F.avg_pool2d(nchw(x).double(), *arguments)))
                    out.assert_neighbours_untouched()


def test_max_beyond_the_caches(isa: str) -> None:
    x = torch.randn(7, 120, 120, 192)  # its output of 77 MB is streamed
    expected = nhwc(F.max_pool2d(nchw(x), 3, 1, 1))
    y = torch.empty(expected.shape)
    pool(x, y, "max", **window((3, 3), (1, 1), (1, 1)))
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 7, 7, 8), (1, 7, 7, 2048), (2, 13, 11, 100), (5, 3, 2, 1), (1, 40, 60, 65)])
@pytest.mark.parametrize("size", [(1, 1), (6, 6), (3, 5)])
def test_adaptive_average(isa, dtype, shape, size) -> None:
    x = sliced(torch.randn(shape).to(dtype))
    N, H, W, C = shape
    out = Slice((N, *size, C), dtype)
    p = problem(
        "AdaptiveAvgPool2d",
        dtype=dtype,
        **{"N": N, "H": H, "W": W, "C": C, "P": size[0], "Q": size[1]},
        x_stride=pixel_stride(x),
        y_stride=pixel_stride(out.data),
    )
    _C.cpu.adaptive_avg_pool2d(p, 3)(x, out.data)
    exact = torch.empty(0, *size, C)
    theirs = exact.to(dtype)
    if N:
        theirs = nhwc(F.adaptive_avg_pool2d(nchw(x), size))
        exact = nhwc(F.adaptive_avg_pool2d(nchw(x).double(), size))
    assert_as_accurate(out.data, theirs, exact)
    out.assert_neighbours_untouched()
