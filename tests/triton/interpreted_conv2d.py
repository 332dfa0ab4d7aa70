"""Triton convolution in the interpreter, against PyTorch and float64. Run by test_interpreter.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from parity import DTYPES, Slice, check, problem

from fastcnn.ops.conv2d.triton import Conv2d, candidates, descriptor_reason, gemm_of, wide_taps
from fastcnn.ops.triton_common import TARGETS
from fastcnn.ops.triton_cost import Config

ACTIVATIONS = {
    "none": lambda a: a,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scaled_tanh": lambda a: 1.7159 * torch.tanh(a * (2 / 3)),
}
POINTER = Config(32, 16, 64, 4, 2)
NESTED = Config(32, 32, 64, 8, 2)
SPLIT = Config(16, 16, 64, 4, 2, splits=3)
BOXES = Config(32, 16, 64, 4, 2, descriptor=True)
PERSISTENT = Config(16, 32, 64, 4, 2, descriptor=True, persistent=True)


def run(dtype, config, n, h, w, c, k, kernel, stride=1, pad=0, dilation=1, groups=1, *, bias=True,
        residual=False, activation="relu", x_slice=(0, 0), y_slice=(0, 0), allow_tf32=False):  # fmt: skip
    r, s = kernel
    x = Slice(n, h, w, c, dtype, before=x_slice[0], after=x_slice[1], seed=1)
    generator = torch.Generator().manual_seed(2)
    weight = (torch.randn(k, c // groups, r, s, generator=generator) / (c // groups * r * s) ** 0.5).to(dtype)
    b = torch.randn(k, generator=generator).to(dtype) if bias else None
    p_out = (h + 2 * pad - dilation * (r - 1) - 1) // stride + 1
    q_out = (w + 2 * pad - dilation * (s - 1) - 1) // stride + 1
    y = Slice(n, p_out, q_out, k, dtype, before=y_slice[0], after=y_slice[1], seed=3)
    extra = Slice(n, p_out, q_out, k, dtype, after=8, seed=4) if residual else None
    p = problem(
        dtype=dtype, activation=activation, has_bias=int(bias), has_residual=int(residual),
        N=n, H=h, W=w, C=c, K=k, R=r, S=s, P=p_out, Q=q_out, stride_h=stride, stride_w=stride,
        pad_h=pad, pad_w=pad, dilation_h=dilation, dilation_w=dilation, groups=groups,
        x_stride=x.stride, y_stride=y.stride, residual_stride=extra.stride if residual else k,
    )  # fmt: skip
    if config is not None and config.descriptor:
        assert descriptor_reason(p, config) is None
    conv = Conv2d(p, TARGETS[90], allow_tf32=allow_tf32, config=config)
    bias32 = b.float() if bias else None
    conv(x.nhwc, conv.pack(weight), bias32, extra.nhwc if residual else None, y.nhwc)

    def reference(x, weight, *rest):
        rest = list(rest)
        out = F.conv2d(x, weight, rest.pop(0) if bias else None, stride, pad, dilation, groups)
        return ACTIVATIONS[activation](out + rest.pop(0) if residual else out)

    inputs = [x.nchw, weight, *([b] if bias else []), *([extra.nchw] if residual else [])]
    if n:
        check(y.nchw, reference, *inputs, floor_scale=8 if dtype == torch.float32 else 1)
    y.assert_neighbours_kept()
    return p


CASES = {
    # name: n, h, w, c, k, kernel, stride, pad, dilation, groups
    "3x3": (1, 6, 7, 16, 24, (3, 3), 1, 1, 1, 1),
    "3x3 stride 2": (2, 8, 6, 32, 16, (3, 3), 2, 1, 1, 1),
    "1x1": (2, 5, 5, 40, 24, (1, 1), 1, 0, 1, 1),
    "1x1 stride 2": (1, 6, 8, 32, 16, (1, 1), 2, 0, 1, 1),
    "5x5": (1, 6, 6, 8, 8, (5, 5), 1, 2, 1, 1),
    "dilated": (1, 8, 8, 8, 8, (3, 3), 1, 2, 2, 1),
    "batch 0": (0, 6, 6, 16, 16, (3, 3), 1, 1, 1, 1),
}
POINTER_ONLY = {
    "ragged": (1, 7, 5, 5, 7, (3, 2), 1, 1, 1, 1),
    "3x3 stride 2 odd": (1, 7, 9, 20, 9, (3, 3), 2, 1, 1, 1),
    "groups 2": (2, 5, 5, 12, 20, (3, 3), 1, 1, 1, 2),
    "depthwise": (1, 5, 5, 6, 6, (3, 3), 1, 1, 1, 6),
    "stem 7x7": (1, 14, 13, 3, 16, (7, 7), 2, 3, 1, 1),
    "stem 11x11": (1, 23, 23, 3, 8, (11, 11), 4, 2, 1, 1),
    "stem 5x5 of 1": (2, 12, 12, 1, 6, (5, 5), 1, 0, 1, 1),
    "linear": (3, 1, 1, 100, 37, (1, 1), 1, 0, 1, 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*CASES, *POINTER_ONLY])
@pytest.mark.parametrize("config", [POINTER, NESTED, SPLIT], ids=["pointer", "nested", "split"])
def test_pointers(case, config, dtype):
    run(dtype, config, *(CASES | POINTER_ONLY)[case], residual=case == "3x3", y_slice=(8, 3), x_slice=(0, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [c for c in CASES if c != "batch 0"])
@pytest.mark.parametrize("config", [BOXES, PERSISTENT], ids=["boxes", "persistent"])
def test_descriptors(case, config, dtype):
    run(dtype, config, *CASES[case], residual=case == "1x1", y_slice=(8, 8), x_slice=(8, 8))


@pytest.mark.parametrize("config", [POINTER, SPLIT, BOXES], ids=["pointer", "split", "boxes"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_epilogue(activation, bias, config):
    run(torch.float32, config, *CASES["3x3"], activation=activation, bias=bias, residual=not bias)


@pytest.mark.parametrize("case", POINTER_ONLY)
def test_sliced_input(case):
    """Poisoned channels around the input never enter the sum, wide taps give way to plain ones."""
    run(torch.float32, POINTER, *POINTER_ONLY[case], x_slice=(3, 5))


@pytest.mark.parametrize("config", [POINTER, NESTED, SPLIT, BOXES], ids=["pointer", "nested", "split", "boxes"])
def test_special_values(config):
    """NaN and infinity reach exactly the outputs whose window holds them; ReLU keeps NaN."""
    x = Slice(1, 6, 6, 16, torch.float32, before=8, after=8, seed=1)
    x.wide[..., :8] = float("nan")
    x.wide[..., 24:] = float("inf")
    x.nhwc[0, 0, 0, 3] = float("nan")
    x.nhwc[0, 5, 5, 0] = float("inf")
    weight = torch.randn(8, 16, 3, 3)
    y = Slice(1, 6, 6, 8, torch.float32)
    p = problem(
        dtype=torch.float32, activation="relu", has_bias=0, has_residual=0, N=1, H=6, W=6, C=16, K=8, R=3, S=3,
        P=6, Q=6, stride_h=1, stride_w=1, pad_h=1, pad_w=1, dilation_h=1, dilation_w=1, groups=1,
        x_stride=x.stride, y_stride=8, residual_stride=8,
    )  # fmt: skip
    conv = Conv2d(p, TARGETS[90], config=config)
    conv(x.nhwc, conv.pack(weight), None, None, y.nhwc)
    check(y.nchw, lambda x, w: torch.relu(F.conv2d(x, w, padding=1)), x.nchw, weight, floor_scale=8)


@pytest.mark.parametrize("case", [*CASES, *POINTER_ONLY])
def test_chosen_configuration(case):
    """What the cost model picks runs too, for a whole problem and whatever tile it has."""
    run(torch.float16, None, *(CASES | POINTER_ONLY)[case])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*CASES, *POINTER_ONLY])
def test_every_configuration(case, dtype):
    p = run(dtype, POINTER, *(CASES | POINTER_ONLY)[case])
    for target in (TARGETS[80], TARGETS[90]):
        for config in candidates(p, target, gemm_of(p, False)):
            run(dtype, config, *(CASES | POINTER_ONLY)[case])


def test_wide_taps_serve_the_stems():
    """The filter rows of the stems are taken whole; a sliced input has gaps in its rows and is not."""
    p = run(torch.float32, POINTER, *POINTER_ONLY["stem 7x7"])
    assert wide_taps(p)
    p.x_stride = 8
    assert not wide_taps(p)
