"""The fused stem in Triton, in the interpreter, against PyTorch and float64. Run by test_interpreter.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity import DTYPES, Slice, check

import fastcnn
from fastcnn import ops
from fastcnn.backends.triton import common
from fastcnn.core import activations
from fastcnn.ops.conv2d_max_pool2d.triton_kernels import Config, Conv2dMaxPool2d
from fastcnn.optimize import vocabulary as v

SMALL = Config(8, 16, 16, 4)


def run(dtype, config, n, h, w, c, k, conv, pool, *, activation="relu", bias=True, x_slice=(0, 0), special=False):
    """conv: kernel, stride, padding, dilation; pool: kernel_size, stride, padding, dilation, ceil_mode."""
    kernel, *window = conv
    x = Slice(n, h, w, c, dtype, before=x_slice[0], after=x_slice[1], seed=1)
    if special:
        x.nhwc[0, h // 2, w // 3, 0], x.nhwc[-1, h - 1, w - 1, c - 1] = float("nan"), float("inf")
        x.nhwc[0, 0, 0, 0] = float("-inf")
    generator = torch.Generator().manual_seed(2)
    r, s = (kernel, kernel) if isinstance(kernel, int) else kernel
    weight = (torch.randn(k, c, r, s, generator=generator) / (c * r * s) ** 0.5).to(dtype)
    b = torch.randn(k, generator=generator).to(dtype) if bias else None
    tensors = (x.nchw, weight, b, None)
    params = ops.conv2d_max_pool2d.normalise(tensors, ((*window, 1, activation), pool))
    problem = ops.conv2d_max_pool2d.infer((*tensors, None), params)
    pooled = problem.second
    y = Slice(n, pooled.P, pooled.Q, k, dtype, before=3, after=8, seed=3)
    problem = replace(problem, second=pooled._replace(y_stride=y.stride))
    fused = Conv2dMaxPool2d(problem, allow_tf32=False, config=config)
    fused(x.nchw, fused.pack(weight), b, y.nchw)

    def reference(x, weight, *bias):
        convolved = F.conv2d(x, weight, bias[0] if bias else None, *window)
        return F.max_pool2d(activations.apply(activation, convolved), *pool)

    if n:
        check(y.nchw, reference, *[t for t in tensors if t is not None], floor_scale=8)
    y.assert_neighbours_kept()
    return y.nchw


POOL = (3, 2, 0, 1, False)
CASES = {
    # n, h, w, c, k, (kernel, stride, padding, dilation), (kernel_size, stride, padding, dilation, ceil_mode)
    "ResNet": (1, 41, 45, 3, 64, (7, 2, 3, 1), (3, 2, 1, 1, False)),
    "GoogLeNet": (1, 41, 47, 3, 64, (7, 2, 3, 1), (3, 2, 0, 1, True)),
    "AlexNet": (1, 63, 67, 3, 96, (11, 4, 2, 1), POOL),
    "LeNet": (2, 24, 28, 1, 6, (5, 1, 0, 1), (2, 2, 0, 1, False)),
    "ragged": (2, 19, 23, 3, 37, (3, 1, 1, 1), POOL),
    "more channels": (1, 19, 23, 13, 20, (3, 1, 1, 1), POOL),
    "unlike sides": (2, 19, 23, 3, 16, ((3, 2), (2, 3), (0, 1), (1, 1)), ((2, 3), (1, 2), (1, 0), 1, False)),
    "dilated": (2, 19, 23, 2, 16, (3, 1, 1, (1, 2)), ((2, 2), (3, 2), 1, (2, 3), False)),
    "last window": (2, 18, 18, 3, 16, (2, 1, 0, 1), (2, 2, 0, 1, True)),
    "one pixel": (3, 1, 1, 3, 5, (1, 1, 0, 1), (1, 1, 0, 1, False)),
    "batch 0": (0, 19, 23, 3, 16, (3, 1, 1, 1), POOL),
}


LARGE = ("ResNet", "GoogLeNet", "AlexNet")


@pytest.mark.parametrize("case", LARGE)
def test_large_stems(case):
    run(torch.float16, None, *CASES[case])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [name for name in CASES if name not in LARGE])
def test_cases(case, dtype):
    run(dtype, None, *CASES[case])


@pytest.mark.parametrize("case", [name for name in CASES if name not in LARGE])
def test_small_tiles_of_a_sliced_input(case):
    run(torch.float16, SMALL, *CASES[case], x_slice=(2, 3))


@pytest.mark.parametrize("activation", [name for name in activations.NAMES if activations.increasing(name)])
def test_activations(activation):
    run(torch.float32, SMALL, *CASES["ragged"], activation=activation, bias=activation is None)


@pytest.mark.parametrize("dtype", DTYPES[:2])  # PyTorch's own bfloat16 spreads NaN on some processors
@pytest.mark.parametrize("activation", [None, "relu"])
def test_nan_and_infinity(activation, dtype):
    """They reach exactly the windows that hold them, and NaN wins there."""
    for pool in (POOL, (3, 2, 1, 1, True)):
        run(dtype, SMALL, *CASES["ragged"][:6], pool, activation=activation, special=True)


def test_a_window_of_padding_alone():
    y = run(torch.float32, SMALL, 1, 1, 1, 3, 5, (1, 1, 0, 1), (2, 1, 1, 2, False))
    assert y.eq(float("-inf")).all()


def test_offsets_past_32_bits(monkeypatch):
    monkeypatch.setattr(common, "needs_int64", lambda *elements: True)
    run(torch.float16, SMALL, *CASES["ragged"])


def test_strict_float32_is_three_products():
    tensors = torch.empty(1, 3, 19, 19), torch.empty(16, 3, 3, 3), None, None
    params = ops.conv2d_max_pool2d.normalise(tensors, ((1, 1, 1, 1, "relu"), POOL))
    problem = ops.conv2d_max_pool2d.infer((*tensors, None), params)
    for allow_tf32, precision in ((True, "tf32"), (False, "tf32x3")):
        assert Conv2dMaxPool2d(problem, allow_tf32=allow_tf32).launch.constants["PRECISION"] == precision


def test_an_optimized_network_takes_it():
    stem = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, 2, 1),
    ).eval()  # fmt: skip
    optimized, x = fastcnn.optimize(stem), torch.randn(2, 3, 37, 30)
    with fastcnn.use_backend("triton"), torch.no_grad():
        check(optimized(x), lambda x: stem.to(x.dtype)(x), x, floor_scale=8)
        choices = fastcnn.explain(lambda: v.conv2d_max_pool2d(
            x, torch.randn(4, 3, 3, 3), None, conv_stride=(1, 1), conv_padding=(0, 0, 0, 0), conv_dilation=(1, 1),
            groups=1, activation=None, kernel_size=(17, 17), stride=None, padding=(0, 0), dilation=(1, 1),
            ceil_mode=False,
        )).choices  # fmt: skip
    assert [c.operator for c in choices] == ["conv2d_max_pool2d", "conv2d", "max_pool2d"]
    assert any("a window covers more than" in (reason or "") for _, reason in choices[0].reasons)
