"""Triton convolution in the interpreter, against PyTorch and float64. Run by test_interpreter.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from parity import DTYPES, Slice, check

import fastcnn
from fastcnn import ops
from fastcnn.backends.triton import common, cost
from fastcnn.backends.triton.cost import Config
from fastcnn.backends.triton.target import TARGETS
from fastcnn.core import activations
from fastcnn.ops.conv2d.triton_launch import Conv2d, candidates, descriptor_reason, gemm_of, wide_taps
from fastcnn.workbench.report.cases import TINY, Case
from fastcnn.workbench.report.measure import relative_error
from fastcnn.workbench.tune import gpu as tune_gpu

POINTER = Config(32, 16, 64, 4, 2)
NESTED = Config(32, 32, 64, 8, 2)
SPLIT = Config(16, 16, 64, 4, 2, splits=3)
BOXES = Config(32, 16, 64, 4, 2, descriptor=True)
PERSISTENT = Config(16, 32, 64, 4, 2, descriptor=True, persistent=True)


def run(dtype, config, n, h, w, c, k, kernel, stride=1, pad=0, dilation=1, groups=1, *, bias=True,
        residual=False, activation="relu", x_slice=(0, 0), y_slice=(0, 0), target=TARGETS[90]):  # fmt: skip
    """Runs one convolution in one configuration, checks it and returns its problem."""
    r, s = kernel
    x = Slice(n, h, w, c, dtype, before=x_slice[0], after=x_slice[1], seed=1)
    generator = torch.Generator().manual_seed(2)
    weight = (torch.randn(k, c // groups, r, s, generator=generator) / (c // groups * r * s) ** 0.5).to(dtype)
    b = torch.randn(k, generator=generator).to(dtype) if bias else None
    p_out = (h + 2 * pad - dilation * (r - 1) - 1) // stride + 1
    q_out = (w + 2 * pad - dilation * (s - 1) - 1) // stride + 1
    y = Slice(n, p_out, q_out, k, dtype, before=y_slice[0], after=y_slice[1], seed=3)
    extra = Slice(n, p_out, q_out, k, dtype, after=8, seed=4).nchw if residual else None
    tensors = (x.nchw, weight, b, extra)
    params = ops.conv2d.normalise(tensors, (stride, pad, dilation, groups, activation))
    problem = ops.conv2d.infer((*tensors, y.nchw), params)
    if config is not None and config.descriptor:
        assert descriptor_reason(problem, config) is None
    conv = Conv2d(problem, target, allow_tf32=False, config=config)
    conv(x.nchw, conv.pack(weight), b, extra, y.nchw)

    def reference(x, weight, *rest):
        out = F.conv2d(x, weight, rest[0] if bias else None, stride, pad, dilation, groups)
        return activations.apply(activation, out + rest[-1] if residual else out)

    if n:
        check(y.nchw, reference, *[t for t in tensors if t is not None], floor_scale=8)
    y.assert_neighbours_kept()
    return problem


GROUPED = {
    "depthwise": {"size": (2, 9, 7, 24, 24), "kernel": (3, 3), "pad": 1, "groups": 24},
    "two outputs a channel, stride 2": {"size": (1, 8, 9, 6, 12), "kernel": (3, 3), "pad": 1, "stride": 2, "groups": 6},
    "one row of 31": {"size": (1, 1, 37, 16, 16), "kernel": (1, 31), "pad": 0, "groups": 16},
    "groups of 4, dilated": {"size": (1, 9, 9, 32, 32), "kernel": (3, 3), "pad": 2, "dilation": 2, "groups": 8},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", GROUPED)
def test_grouped(dtype, case):
    """The kernel for narrow groups, over slices and with a residual."""
    arguments = dict(GROUPED[case])
    n, h, w, c, k = arguments.pop("size")
    r, s = arguments["kernel"]
    pad, stride, dilation, groups = (arguments.get(name, 1) for name in ("pad", "stride", "dilation", "groups"))
    pad = arguments["pad"]
    x = Slice(n, h, w, c, dtype, before=8, after=8, seed=1)
    generator = torch.Generator().manual_seed(2)
    weight = (torch.randn(k, c // groups, r, s, generator=generator) / (c // groups * r * s) ** 0.5).to(dtype)
    bias = torch.randn(k, generator=generator).to(dtype)
    p_out, q_out = ((size + 2 * pad - dilation * (f - 1) - 1) // stride + 1 for size, f in ((h, r), (w, s)))
    y = Slice(n, p_out, q_out, k, dtype, before=8, after=8, seed=3)
    residual = Slice(n, p_out, q_out, k, dtype, after=8, seed=4).nchw
    tensors = (x.nchw, weight, bias, residual)
    params = ops.conv2d.normalise(tensors, (stride, pad, dilation, groups, "relu"))
    with fastcnn.use_backend("triton"):
        (candidate, *_) = [c for c in ops.conv2d.candidates if (c.backend, c.name) == ("triton", "grouped")]
        problem = ops.conv2d.infer((*tensors, y.nchw), params)
        assert candidate.supports(problem) is None
        candidate.prepare(problem)(*tensors, y.nchw)

    def reference(x, weight, bias, residual):
        return torch.relu(F.conv2d(x, weight, bias, stride, pad, dilation, groups) + residual)

    check(y.nchw, reference, *tensors, floor_scale=8)
    y.assert_neighbours_kept()


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


@pytest.mark.parametrize("case", ["3x3", "1x1 stride 2"])
def test_descriptors_give_way_to_unaligned_tensors(case):
    """A slice that begins off a multiple of 16 bytes has no descriptor: the same weights serve pointers."""
    run(torch.float16, BOXES, *CASES[case], x_slice=(1, 7))


@pytest.mark.parametrize("config", [POINTER, SPLIT, BOXES], ids=["pointer", "split", "boxes"])
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid", "tanh", "scaled_tanh"])
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
    tensors = (x.nchw, weight, None, None)
    problem = ops.conv2d.infer((*tensors, y.nchw), ops.conv2d.normalise(tensors, (1, 1, 1, 1, "relu")))
    conv = Conv2d(problem, TARGETS[90], config=config)
    conv(x.nhwc, conv.pack(weight), None, None, y.nhwc)
    check(y.nchw, lambda x, w: torch.relu(F.conv2d(x, w, padding=1)), x.nchw, weight, floor_scale=8)


@pytest.mark.parametrize("case", [*CASES, *POINTER_ONLY])
def test_chosen_configuration(case):
    """What the cost model picks runs too, for a whole problem and whatever tile it has."""
    run(torch.float16, None, *(CASES | POINTER_ONLY)[case])


@pytest.mark.parametrize("config", [POINTER, SPLIT], ids=["pointer", "split"])
def test_offsets_past_32_bits(config, monkeypatch):
    """The kernels of tensors too large for a test, on a small one."""
    monkeypatch.setattr(common, "needs_int64", lambda *elements: True)
    run(torch.float16, config, *CASES["3x3"], residual=True, y_slice=(8, 3))


@pytest.mark.parametrize("channels", [8, 3])
def test_height_and_width_are_not_confused(channels):
    """Strides, paddings and dilations that differ between the two; 3 channels take whole filter rows."""
    x, weight = torch.randn(2, channels, 9, 14), torch.randn(5, channels, 3, 2) / 4
    how = dict(stride=(2, 3), padding=(1, 0), dilation=(2, 1))
    check(on_triton(x, weight, **how), lambda x, w: F.conv2d(x, w, **how), x, weight, floor_scale=8)
    how = dict(stride=(3, 1), padding=(0, 2), dilation=(1, 2) if channels == 8 else 1)
    check(on_triton(x, weight, **how), lambda x, w: F.conv2d(x, w, **how), x, weight, floor_scale=8)


def on_triton(*args, **kwargs):
    with fastcnn.use_backend("triton"):
        return fastcnn.functional.conv2d(*args, **kwargs)


def test_large_tiles_are_stored_in_halves():
    run(torch.float16, Config(128, 128, 64, 4, 2), 1, 9, 15, 8, 150, (1, 1), residual=True, y_slice=(8, 3))


def test_persistent_programs_take_several_tiles(monkeypatch):
    """Three programs for at least 22 tiles of 16 pixels by 32 channels."""
    monkeypatch.setattr(cost, "blocks_per_sm", lambda target, config: 1)
    run(torch.float16, PERSISTENT, 2, 9, 9, 16, 40, (3, 3), 1, 1, target=dataclasses.replace(TARGETS[90], sms=3))


def test_strict_float32_is_three_products():
    """The interpreter multiplies in float32 whatever is asked: look at what is asked."""
    x = torch.randn(1, 16, 5, 5)
    p = ops.conv2d.infer((x, torch.randn(8, 16, 3, 3), None, None, None), ((1, 1), (1,) * 4, (1, 1), 1, None))
    for config in (POINTER, SPLIT, BOXES):
        for allow_tf32, precision in ((True, "tf32"), (False, "tf32x3")):
            conv = Conv2d(p, TARGETS[90], allow_tf32=allow_tf32, config=config)
            assert conv.launches[0].constants["PRECISION"] == precision


ALL_CASES = list((CASES | POINTER_ONLY).items())


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(ALL_CASES)), ids=[name for name, _ in ALL_CASES])
def test_every_configuration(i):
    """Every tile that can be chosen. The dtypes take turns: they change the tile's depth, not the kernel."""
    dtype, case = DTYPES[i % len(DTYPES)], ALL_CASES[i][1]
    p = run(dtype, POINTER, *case)
    for config in dict.fromkeys(c for arch in (80, 90) for c in candidates(p, TARGETS[arch], gemm_of(p, False))):
        run(dtype, config, *case)


def test_wide_taps_serve_the_stems():
    """The filter rows of the stems are taken whole; a sliced input has gaps in its rows and is not."""
    p = run(torch.float32, POINTER, *POINTER_ONLY["stem 7x7"])
    assert wide_taps(p)
    assert not wide_taps(p._replace(x_stride=8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d", "m"), [(0, 20, 8), (1, 300, 33), (7, 64, 10)])
def test_linear(n, d, m, dtype):
    x, weight, bias = torch.randn(n, d).to(dtype), (torch.randn(m, d) / d**0.5).to(dtype), torch.randn(m).to(dtype)
    with fastcnn.use_backend("triton"):
        y = fastcnn.functional.linear(x, weight, bias, activation="relu")
    assert y.shape == (n, m)
    if n:
        check(y, lambda x, w, b: torch.relu(F.linear(x, w, b)), x, weight, bias, floor_scale=8)


def test_changed_weight_and_precision_are_seen():
    """A packed weight is remade when the weight changes; each TF32 setting has its kernel."""
    x, weight = torch.randn(1, 16, 5, 5), torch.randn(8, 16, 3, 3)
    with fastcnn.use_backend("triton"):
        first = fastcnn.functional.conv2d(x, weight)
        weight.mul_(2)
        second = fastcnn.functional.conv2d(x, weight)
    assert torch.allclose(second, 2 * first)


def test_every_configuration_can_be_tuned():
    layer = tune_gpu.layer_of(Case("op", "conv2d", "tiny conv2d", call=TINY[3], batch=3))
    options = list(tune_gpu.triton_options(layer, tf32=False))
    assert len({option.name for option in options}) == len(options) > 3
    for option in options:
        assert relative_error(option.prepare()(), layer.truth) < 1e-5, option.name
