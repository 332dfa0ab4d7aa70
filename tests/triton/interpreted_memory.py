"""Memory-bound Triton kernels in the interpreter, against PyTorch and float64. Run by test_interpreter.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity import DTYPES, Slice, check

import fastcnn
from fastcnn import ops
from fastcnn.core import activations
from fastcnn.ops.lrn_max_pool2d.triton_kernels import lrn_max_pool2d

# (N, H, W, C, channels of poison before, after)
SHAPES = [(0, 5, 5, 8, 0, 0), (1, 7, 5, 3, 0, 0), (2, 9, 8, 32, 8, 8), (1, 5, 6, 70, 3, 5), (3, 6, 7, 1, 1, 0)]


@pytest.fixture(autouse=True)
def triton_only():
    with fastcnn.use_backend("triton"):
        yield


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=SHAPES, ids=str)
def sizes(request):
    return request.param


def special(x: Slice) -> Slice:
    """NaN and infinities at a few places of the tensor."""
    if x.nhwc.shape[0]:
        x.nhwc[0, 1, 1, 0] = float("nan")
        x.nhwc[0, 3, 2, -1] = float("inf")
        x.nhwc[-1, 4, 4, 0] = float("-inf")
    return x


def test_add_relu(sizes, dtype):
    n, h, w, c, before, after = sizes
    a = special(Slice(n, h, w, c, dtype, before=before, seed=1))
    b = Slice(n, h, w, c, dtype, after=after, seed=2)
    y = Slice(n, h, w, c, dtype, before=before, after=after, seed=3)
    ops.add_relu((a.nchw, b.nchw), (), y.nchw)
    check(y.nchw, lambda a, b: torch.relu(a + b), a.nchw, b.nchw)
    y.assert_neighbours_kept()


@pytest.mark.parametrize("shape", [(), (1025,), (3, 5, 7), (0, 4)])
def test_add_relu_of_any_rank(shape, dtype):
    a, b = torch.randn(2, *shape).to(dtype)
    check(fastcnn.functional.add_relu(a, b), lambda a, b: torch.relu(a + b), a, b)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8, torch.float64, torch.bool], ids=str)
def test_concat(sizes, dtype):
    n, h, w, c, before, after = sizes
    x = torch.randn(n, h, w, before + c + after).mul(20).to(dtype).permute(0, 3, 1, 2)[:, before : before + c]
    other = torch.randn(n, 5, h, w).mul(20).to(dtype)  # not channels_last
    expected = torch.cat([x, other, x], 1)
    assert torch.equal(fastcnn.functional.concat([x, other, x]), expected)
    wide = torch.ones(n, h, w, before + 2 * c + 5 + after).to(dtype).permute(0, 3, 1, 2)
    out = wide[:, before : before + 2 * c + 5]
    ops.concat((x, other, x), (), out)
    assert torch.equal(out, expected)
    assert (wide[:, :before] == 1).all()
    assert (wide[:, before + 2 * c + 5 :] == 1).all()


def local_response_norm(x, size, alpha, beta, k):
    """PyTorch's, which has no 16-bit form on the CPU: computed in float32 there and rounded."""
    if x.numel() == 0:
        return x
    wide = x if x.dtype == torch.float64 else x.float()
    return F.local_response_norm(wide, size, alpha, beta, k).to(x.dtype)


@pytest.mark.parametrize("params", [(5, 1e-4, 0.75, 2.0), (4, 0.3, 0.5, 1.0), (1, 1.0, 1.5, 0.1)], ids=str)
def test_lrn(sizes, dtype, params):
    n, h, w, c, before, after = sizes
    x = special(Slice(n, h, w, c, dtype, before=before, after=after, seed=1))
    y = Slice(n, h, w, c, dtype, before=before, after=after, seed=2)
    ops.local_response_norm((x.nchw,), params, y.nchw)
    check(y.nchw, lambda x: local_response_norm(x, *params), x.nchw, floor_scale=2)
    y.assert_neighbours_kept()


LRN_POOLS = [((5, 0.3, 0.75, 2.0), (3, 2, 1, 1, True)), ((4, 1e-2, 0.5, 1.0), ((2, 3), (1, 2), (1, 0), (2, 1), False))]


@pytest.mark.parametrize("params", LRN_POOLS, ids=str)
def test_lrn_max_pool2d(sizes, dtype, params):
    n, h, w, c, before, after = sizes
    x = special(Slice(n, h, w, c, dtype, before=before, after=after, seed=1))
    problem = ops.lrn_max_pool2d.infer((x.nchw, None), ops.lrn_max_pool2d.normalise((x.nchw,), params))
    y = Slice(n, problem.second.P, problem.second.Q, c, dtype, before=after, after=before, seed=2)
    problem = replace(problem, second=problem.second._replace(y_stride=y.stride))
    lrn_max_pool2d(problem)(x.nchw, y.nchw)
    if n:
        lrn, pool = params
        check(y.nchw, lambda x: F.max_pool2d(local_response_norm(x, *lrn), *pool), x.nchw, floor_scale=2)
    y.assert_neighbours_kept()


MAX_POOLS = [(3, 2, 1, 1, False), (2, 2, 0, 1, True), ((3, 2), 1, 1, 2, False)]
AVERAGE_POOLS = [
    (3, 2, 1, True, True, None),
    (3, 1, 1, False, False, None),
    ((5, 4), 3, 0, True, False, None),
    (2, 2, 0, False, True, -7),
]


@pytest.mark.parametrize(
    ("op", "function", "params"),
    [(ops.max_pool2d, F.max_pool2d, p) for p in MAX_POOLS] + [(ops.avg_pool2d, F.avg_pool2d, p) for p in AVERAGE_POOLS],
    ids=[*map(str, MAX_POOLS), *map(str, AVERAGE_POOLS)],
)
def test_pool2d(sizes, dtype, op, function, params):
    n, h, w, c, before, after = sizes
    x = special(Slice(n, h, w, c, dtype, before=before, after=after, seed=1))
    expected = function(torch.zeros(1, c, h, w), *params)
    y = Slice(n, expected.shape[2], expected.shape[3], c, dtype, before=after, after=before, seed=2)
    op((x.nchw,), params, y.nchw)
    if n:
        check(y.nchw, lambda x: function(x, *params), x.nchw)
    y.assert_neighbours_kept()


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (6, 9)])
def test_adaptive_avg_pool2d(sizes, dtype, size):
    n, h, w, c, before, after = sizes
    x = special(Slice(n, h, w, c, dtype, before=before, after=after, seed=1))
    y = Slice(n, *size, c, dtype, before=after, after=before, seed=2)
    ops.adaptive_avg_pool2d((x.nchw,), (size,), y.nchw)
    if n:
        check(y.nchw, lambda x: F.adaptive_avg_pool2d(x, size), x.nchw)
    y.assert_neighbours_kept()


@pytest.mark.parametrize("activation", activations.NAMES)
def test_subsample2d(sizes, dtype, activation):
    n, h, w, c, before, after = sizes
    x = Slice(n, h, w, c, dtype, before=before, after=after, seed=1)
    y = Slice(n, h // 2, w // 2, c, dtype, before=after, after=before, seed=2)
    coefficient, bias = (torch.randn(2, c) * 0.3).to(dtype)
    ops.subsample2d((x.nchw, coefficient, bias), (2, activation), y.nchw)

    def reference(x, coefficient, bias):
        total = F.avg_pool2d(x, 2, divisor_override=1)
        return activations.apply(activation, total * coefficient[:, None, None] + bias[:, None, None])

    check(y.nchw, reference, x.nchw, coefficient, bias, floor_scale=4)
    y.assert_neighbours_kept()


@pytest.mark.parametrize(("n", "d", "m"), [(0, 84, 10), (1, 84, 10), (9, 33, 17), (3, 1, 1)])
def test_rbf(n, d, m, dtype):
    x = torch.randn(n, d + 5).to(dtype)[:, 2 : d + 2]
    centers = torch.randn(m, d).to(dtype)
    y = fastcnn.functional.rbf(x, centers)
    check(y, lambda x, centers: (x[:, None, :] - centers).square().sum(-1), x, centers, floor_scale=2)


def test_tanh_is_accurate_everywhere():
    """Small arguments keep their relative accuracy, large ones saturate, NaN stays."""
    values = torch.cat([torch.logspace(-30, 2, 400), torch.tensor([0.35, 0.349999, float("inf"), float("nan")])])
    values = torch.cat([values, -values]).view(1, -1, 1, 1)
    c = values.shape[1]
    y = fastcnn.functional.subsample2d(values, torch.ones(c), torch.zeros(c), 1)
    exact = torch.tanh(values.double())
    assert y.isnan().equal(exact.isnan())
    assert ((y.double() - exact) / exact).nan_to_num().abs().max().item() < 4e-7
