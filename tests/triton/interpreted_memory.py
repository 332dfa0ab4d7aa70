"""Memory-bound Triton kernels in the interpreter, against PyTorch and float64. Run by test_interpreter.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from parity import DTYPES, Slice, check, problem

from fastcnn.ops.add_relu.triton import add_relu
from fastcnn.ops.concat.triton import copy_slice
from fastcnn.ops.lrn.triton import lrn, lrn_max_pool2d
from fastcnn.ops.pool.triton import adaptive_avg_pool2d, pool2d
from fastcnn.ops.rbf.triton import rbf
from fastcnn.ops.subsample.triton import subsample2d

# (N, H, W, C, channels of poison before, after)
SHAPES = [(0, 5, 5, 8, 0, 0), (1, 7, 5, 3, 0, 0), (2, 9, 8, 32, 8, 8), (1, 5, 6, 70, 3, 5), (3, 6, 7, 1, 1, 0)]


def special(x: Slice) -> Slice:
    """NaN and infinities at a few places of the tensor."""
    flat = x.nhwc
    if flat.shape[0]:
        flat[0, 1, 1, 0] = float("nan")
        flat[0, 3, 2, -1] = float("inf")
        flat[-1, 4, 4, 0] = float("-inf")
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_add_relu(shape, dtype):
    n, h, w, c, before, after = shape
    a = special(Slice(n, h, w, c, dtype, before=before, seed=1))
    b = Slice(n, h, w, c, dtype, after=after, seed=2)
    y = Slice(n, h, w, c, dtype, before=before, after=after, seed=3)
    p = problem(
        dtype=dtype, pixels=n * h * w, C=c, a_stride=a.stride, b_stride=b.stride, y_stride=y.stride
    )
    add_relu(p)(a.nhwc, b.nhwc, y.nhwc)
    check(y.nhwc, lambda a, b: torch.relu(a + b), a.nhwc, b.nhwc)
    y.assert_neighbours_kept()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_copy_slice(shape, dtype):
    n, h, w, c, before, after = shape
    values = torch.randn(n, h, w, c).mul(20).to(dtype)
    wide = torch.full((n, h, w, before + c + after), 77).to(dtype)
    expected = wide.clone()
    expected[..., before : before + c] = values
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    p = problem(
        element_size=dtype.itemsize, pixels=n * h * w, C=c, x_stride=c, y_stride=before + c + after
    )
    copy_slice(p)(values.view(integer), wide[..., before : before + c].view(integer))
    assert torch.equal(wide, expected)


def local_response_norm(x, size, alpha, beta, k):
    """PyTorch's, which has no 16-bit form on the CPU: computed in float32 there and rounded."""
    wide = x if x.dtype == torch.float64 else x.float()
    return F.local_response_norm(wide, size, alpha, beta, k).to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("size", "alpha", "beta", "k"), [(5, 1e-4, 0.75, 2.0), (4, 0.3, 0.5, 1.0), (1, 1.0, 1.5, 0.1)]
)
def test_lrn(shape, dtype, size, alpha, beta, k):
    n, h, w, c, before, after = shape
    x = special(Slice(n, h, w, c, dtype, before=before, after=after, seed=1))
    y = Slice(n, h, w, c, dtype, before=before, after=after, seed=2)
    p = problem(
        dtype=dtype, pixels=n * h * w, C=c, size=size, alpha=alpha, beta=beta, k=k,
        x_stride=x.stride, y_stride=y.stride,
    )  # fmt: skip
    lrn(p)(x.nhwc, y.nhwc)
    if n:
        check(y.nchw, lambda x: local_response_norm(x, size, alpha, beta, k), x.nchw, floor_scale=2)
    y.assert_neighbours_kept()


def pool_problem(x: Slice, y: Slice, mode, kernel, stride, pad, dilation=1, include=True, divisor=0):
    n, h, w, c = x.nhwc.shape
    return problem(
        dtype=x.nhwc.dtype, mode=mode, N=n, H=h, W=w, C=c, P=y.nhwc.shape[1], Q=y.nhwc.shape[2],
        kernel_h=kernel[0], kernel_w=kernel[1], stride_h=stride, stride_w=stride, pad_h=pad, pad_w=pad,
        dilation_h=dilation, dilation_w=dilation, count_include_pad=int(include), divisor_override=divisor,
        x_stride=x.stride, y_stride=y.stride,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_lrn_max_pool2d(shape, dtype):
    n, h, w, c, before, after = shape
    x = special(Slice(n, h, w, c, dtype, before=before, after=after, seed=1))

    def reference(x):
        return F.max_pool2d(local_response_norm(x, 5, 1e-4, 0.75, 2.0), 3, 2, ceil_mode=True)

    expected = F.max_pool2d(x.nchw.float(), 3, 2, ceil_mode=True) if n else torch.empty(0, c, 2, 2)
    y = Slice(n, expected.shape[2], expected.shape[3], c, dtype, after=after, seed=2)
    p = problem(
        dtype=dtype, C=c, size=5, alpha=1e-4, beta=0.75, k=2.0, x_stride=x.stride, y_stride=y.stride
    )
    lrn_max_pool2d(p, pool_problem(x, y, "max", (3, 3), 2, 0))(x.nhwc, y.nhwc)
    if n:
        check(y.nchw, reference, x.nchw, floor_scale=2)
    y.assert_neighbours_kept()


POOLS = [
    # mode, kernel, stride, pad, dilation, ceil, include, divisor
    ("max", (3, 3), 2, 1, 1, False, True, 0),
    ("max", (2, 2), 2, 0, 1, True, True, 0),
    ("max", (3, 2), 1, 1, 2, False, True, 0),
    ("average", (3, 3), 2, 1, 1, True, True, 0),
    ("average", (3, 3), 1, 1, 1, False, False, 0),
    ("average", (5, 4), 3, 0, 1, True, False, 0),
    ("average", (2, 2), 2, 0, 1, False, True, 7),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pool", POOLS)
def test_pool2d(shape, dtype, pool):
    n, h, w, c, before, after = shape
    mode, kernel, stride, pad, dilation, ceil, include, divisor = pool
    x = special(Slice(n, h, w, c, dtype, before=before, after=after, seed=1))

    def reference(x):
        if mode == "max":
            return F.max_pool2d(x, kernel, stride, pad, dilation, ceil)
        return F.avg_pool2d(x, kernel, stride, pad, ceil, include, divisor or None)

    expected = reference(x.nchw.new_zeros(1, c, h, w))
    y = Slice(n, expected.shape[2], expected.shape[3], c, dtype, before=after, after=before, seed=2)
    pool2d(pool_problem(x, y, mode, kernel, stride, pad, dilation, include, divisor))(x.nhwc, y.nhwc)
    if n:
        check(y.nchw, reference, x.nchw)
    y.assert_neighbours_kept()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (6, 9)])
def test_adaptive_avg_pool2d(shape, dtype, size):
    n, h, w, c, before, after = shape
    x = special(Slice(n, h, w, c, dtype, before=before, after=after, seed=1))
    y = Slice(n, *size, c, dtype, before=after, after=before, seed=2)
    p = problem(
        dtype=dtype, N=n, H=h, W=w, C=c, P=size[0], Q=size[1], x_stride=x.stride, y_stride=y.stride
    )
    adaptive_avg_pool2d(p)(x.nhwc, y.nhwc)
    if n:
        check(y.nchw, lambda x: F.adaptive_avg_pool2d(x, size), x.nchw)
    y.assert_neighbours_kept()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", ["none", "relu", "sigmoid", "tanh", "scaled_tanh"])
def test_subsample2d(shape, dtype, activation):
    n, h, w, c, before, after = shape
    x = Slice(n, h, w, c, dtype, before=before, after=after, seed=1)
    y = Slice(n, h // 2, w // 2, c, dtype, before=after, after=before, seed=2)
    coefficient, bias = torch.randn(c) * 0.3, torch.randn(c) * 0.1
    p = problem(
        dtype=dtype, activation=activation, N=n, H=h, W=w, C=c, P=h // 2, Q=w // 2, kernel_size=2,
        x_stride=x.stride, y_stride=y.stride,
    )  # fmt: skip
    subsample2d(p)(x.nhwc, coefficient, bias, y.nhwc)
    functions = {
        "none": lambda a: a,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "scaled_tanh": lambda a: 1.7159 * torch.tanh(a * (2 / 3)),
    }

    def reference(x):
        total = F.avg_pool2d(x, 2, divisor_override=1)
        scale, offset = (t.to(x.dtype).view(-1, 1, 1) for t in (coefficient, bias))
        return functions[activation](total * scale + offset)

    if n:
        check(y.nchw, reference, x.nchw, floor_scale=4)
    y.assert_neighbours_kept()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d", "m"), [(0, 84, 10), (1, 84, 10), (9, 33, 17), (3, 1, 1)])
def test_rbf(n, d, m, dtype):
    x = torch.randn(n, d + 5).to(dtype)[:, 2 : d + 2]
    centers = torch.randn(m, d)
    y = torch.full((n, m + 3), 9.0, dtype=dtype)
    rbf(problem(dtype=dtype, N=n, D=d, M=m, x_stride=d + 5, y_stride=m + 3))(x, centers, y)
    if n:
        check(y[:, :m], lambda x: (x[:, None, :] - centers.to(x.dtype)).square().sum(-1), x, floor_scale=2)
    assert (y[:, m:] == 9).all()


def test_tanh_is_accurate_everywhere():
    """Small arguments keep their relative accuracy, large ones saturate, NaN stays."""
    values = torch.cat([torch.logspace(-30, 2, 400), torch.tensor([0.35, 0.349999, float("inf"), float("nan")])])
    values = torch.cat([values, -values]).view(1, 1, 1, -1)
    c = values.shape[-1]
    x, y = Slice(1, 1, 1, c, torch.float32, values=values), Slice(1, 1, 1, c, torch.float32)
    p = problem(
        dtype=torch.float32, activation="tanh", N=1, H=1, W=1, C=c, P=1, Q=1, kernel_size=1,
        x_stride=c, y_stride=c,
    )  # fmt: skip
    subsample2d(p)(x.nhwc, torch.ones(c), torch.zeros(c), y.nhwc)
    exact = torch.tanh(values.double())
    assert y.nhwc.isnan().equal(exact.isnan())
    relative = ((y.nhwc.double() - exact) / exact).nan_to_num().abs().max().item()
    assert relative < 4e-7
