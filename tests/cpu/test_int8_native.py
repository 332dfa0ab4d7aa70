"""Native kernels on bytes, under every instruction set, bit for bit against their definition."""

import random
from typing import Any

import pytest
import torch
from native import nchw, nhwc, problem
from torch import Tensor

from fastcnn import _C
from fastcnn.ops.int8 import reference

THREADS = 2


def bytes_like(generator: torch.Generator, *shape: int, low: int = 0, high: int = 256) -> Tensor:
    return torch.randint(low, high, shape, generator=generator, dtype=torch.uint8)


def channel_slice(x: Tensor, extra: int) -> Tensor:
    """x (..., C) inside a wider tensor whose other channels hold 99."""
    wide = torch.full((*x.shape[:-1], x.shape[-1] + extra), 99, dtype=x.dtype)
    part = wide[..., extra // 2 : extra // 2 + x.shape[-1]]
    return part.copy_(x)


class Conv:
    """A random convolution of bytes."""

    def __init__(self, seed: int, **fixed: Any) -> None:
        rng = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        pick = lambda name, *values: fixed.get(name, rng.choice(values))  # noqa: E731
        self.groups = pick("groups", 1, 1, 1, 1, 2, 3, 8)
        channels = pick("channels", 1, 2, 3, 4, 5, 7, 8, 12, 16, 20, 33, 64, 130)
        self.C = self.groups * channels
        self.K = self.groups * pick("filters", 1, 2, 5, 8, 15, 16, 17, 31, 48, 64, 65, 100, 130)
        if pick("depthwise", False, False, False, False, True):
            self.groups = self.C = self.K = rng.choice([1, 3, 8, 16, 17, 33, 64, 70])
        self.R, self.S = pick("R", 1, 1, 2, 3, 3, 5, 7), pick("S", 1, 1, 2, 3, 3, 5, 7)
        self.stride = pick("stride", (1, 1), (1, 1), (2, 2), (2, 1), (3, 2))
        self.dilation = pick("dilation", (1, 1), (1, 1), (1, 1), (2, 1), (1, 2))
        self.padding = tuple(rng.choice([0, 0, 1, 2, 3]) for _ in range(4))
        self.N = pick("N", 1, 1, 2, 3)
        extent = [d * (k - 1) + 1 for d, k in zip(self.dilation, (self.R, self.S), strict=True)]
        self.H = max(extent[0] - self.padding[0] - self.padding[1], pick("H", 1, 2, 5, 7, 9, 14))
        self.W = max(extent[1] - self.padding[2] - self.padding[3], pick("W", 1, 3, 6, 7, 11, 15))
        self.H, self.W = max(1, self.H), max(1, self.W)
        self.P = (self.H + self.padding[0] + self.padding[1] - extent[0]) // self.stride[0] + 1
        self.Q = (self.W + self.padding[2] + self.padding[3] - extent[1]) // self.stride[1] + 1

        self.zero, self.y_zero, self.residual_zero = (rng.choice([0, 0, 128, 131]) for _ in range(3))
        extreme = rng.random() < 0.2  # where an instruction that saturates would show
        self.x = bytes_like(generator, self.N, self.H, self.W, self.C, low=255 if extreme else 0)
        shape = (self.K, self.C // self.groups, self.R, self.S)
        self.weight = torch.randint(127 if extreme else -127, 128, shape, generator=generator, dtype=torch.int8)
        self.bias = torch.randint(-30000, 30000, (self.K,), generator=generator, dtype=torch.int32)
        if extreme:  # sums that end inside the range of a byte all the same
            self.bias -= (255 * 127 * shape[1] * self.R * self.S) - 1000
        depth = shape[1] * self.R * self.S
        self.multiplier = torch.rand(self.K, generator=generator) * 0.02 / depth**0.5
        self.float_output = pick("float_output", False, False, False, True)
        self.residual = None
        if not self.float_output and rng.random() < 0.4:
            self.residual = bytes_like(generator, self.N, self.P, self.Q, self.K)
        self.residual_scale = rng.choice([0.7, 1.0, 0.031])
        self.relu = rng.random() < 0.5
        self.low, self.high = (self.y_zero, 255) if self.relu else (rng.choice([0, 3]), rng.choice([255, 200]))
        self.extra = rng.choice([0, 0, 6])

    def options(self) -> dict[str, Any]:
        result = {
            "stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups,
            "x_zero": self.zero, "y_zero": self.y_zero, "low": self.low, "high": self.high,
            "float_output": self.float_output, "relu": self.relu,
        }  # fmt: skip
        if self.residual is not None:
            result.update(residual_zero=self.residual_zero, residual_scale=self.residual_scale)
        return result

    def expected(self) -> Tensor:
        residual = None if self.residual is None else nchw(self.residual)
        return nhwc(reference.conv2d(nchw(self.x), self.weight, self.bias, self.multiplier, residual, **self.options()))

    def problem(self) -> Any:
        strides = {"x_stride": self.C + self.extra, "y_stride": self.K + self.extra}
        return problem(
            "Int8Conv2d",
            **{n: getattr(self, n) for n in "NHWCKRSPQ"},
            stride_h=self.stride[0], stride_w=self.stride[1], pad_h=self.padding[0], pad_w=self.padding[2],
            dilation_h=self.dilation[0], dilation_w=self.dilation[1], groups=self.groups, **strides,
            has_residual=int(self.residual is not None), residual_stride=self.K + self.extra,
            float_output=int(self.float_output), relu=int(self.relu), x_zero=self.zero, y_zero=self.y_zero,
            low=self.low, high=self.high, residual_zero=self.residual_zero, residual_scale=self.residual_scale,
        )  # fmt: skip

    def run(self, name: str) -> Tensor:
        conv = _C.cpu.Int8Conv2d(self.problem(), name)
        packed = torch.full((conv.packed_bytes + 64,), 0x7F, dtype=torch.uint8)
        conv.pack(*(t.data_ptr() for t in (self.weight, self.bias, self.multiplier, packed)))
        assert (packed[conv.packed_bytes :] == 0x7F).all(), "packing wrote beyond packed_bytes"
        x = channel_slice(self.x, self.extra)
        residual = None if self.residual is None else channel_slice(self.residual, self.extra)
        dtype = torch.float32 if self.float_output else torch.uint8
        y = channel_slice(torch.zeros(self.N, self.P, self.Q, self.K, dtype=dtype), self.extra)
        conv.bound(THREADS)(x, packed, residual, y)
        if self.extra:
            wide = y.as_strided((self.N * self.P * self.Q, self.K + 6), (self.K + 6, 1), 0)
            beside = torch.cat((wide[:, :3], wide[:, 3 + self.K :]), 1)
            assert (beside == 99).all(), "wrote beside the channel slice"
        return y


def kernels(conv: Conv) -> list[str]:
    """Those that take the problem here."""
    result = []
    for name in _C.cpu.conv2d_int8_kernels():
        try:
            _C.cpu.Int8Conv2d(conv.problem(), name)
        except ValueError:
            continue
        result.append(name)
    return result


def check_conv(seed: int, **fixed: Any) -> None:
    """Every kernel under every instruction set, against one computation of the definition."""
    conv = Conv(seed, **fixed)
    expected, before = conv.expected(), _C.cpu.isa()
    try:
        for isa in _C.cpu.isas():
            _C.cpu.set_isa(isa)
            for name in kernels(conv):
                different = int((conv.run(name) != expected).sum())
                assert different == 0, f"{name} on {isa}, seed {seed}: {different} of {expected.numel()} differ"
    finally:
        _C.cpu.set_isa(before)


@pytest.mark.parametrize("part", range(4))
def test_conv2d_equals_its_definition(part: int) -> None:
    for seed in range(10 * part, 10 * part + 10):
        check_conv(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_conv2d_equals_its_definition_on_500_problems(part: int) -> None:
    for seed in range(1000 + 50 * part, 1050 + 50 * part):
        check_conv(seed)


def test_sums_that_would_saturate_16_bits(isa: str) -> None:
    """255 * 127 twice is above 32767: where an instruction adds pairs in 16 bits, the sum is short."""
    x = torch.full((1, 1, 1, 64), 255, dtype=torch.uint8)
    weight = torch.full((32, 64, 1, 1), 127, dtype=torch.int8)
    conv = Conv(0, groups=1, channels=64, filters=32, depthwise=False, float_output=True)
    conv.x, conv.weight, conv.residual, conv.extra = x, weight, None, 0
    conv.N = conv.H = conv.W = conv.P = conv.Q = conv.R = conv.S = 1
    conv.stride = conv.dilation = (1, 1)
    conv.padding = (0, 0, 0, 0)
    conv.bias, conv.multiplier = torch.zeros(32, dtype=torch.int32), torch.ones(32)
    for name in kernels(conv):
        assert (conv.run(name) == 64 * 255 * 127).all(), name


def test_conv2d_errors_in_words() -> None:
    conv = Conv(3)
    for change, message in (
        ({"groups": 0}, "groups is 0, must be at least 1"),
        ({"low": 9, "high": 8}, "low is 9, above high, 8"),
        ({"x_zero": 256}, "a zero point or bound is 256, must be from 0 to 255"),
        ({"x_stride": 0}, "a pixel stride is smaller than the number of channels"),
        ({"C": 1 << 20, "x_stride": 1 << 20, "groups": 1}, "products may pass 32 bits"),
    ):
        struct = conv.problem()
        for field, value in change.items():
            setattr(struct, field, value)
        with pytest.raises(ValueError, match=message):
            _C.cpu.Int8Conv2d(struct)
    with pytest.raises(ValueError, match="kernel 'fast': unknown; the kernels are amx, vnni, pairs and depthwise"):
        _C.cpu.Int8Conv2d(conv.problem(), "fast")


SPECIAL = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.0, 2.5, 3.5, -0.5])


@pytest.mark.parametrize("C", [1, 3, 16, 37])
@pytest.mark.parametrize("planes", [True, False])
def test_quantize_and_dequantize(isa: str, C: int, planes: bool) -> None:
    generator = torch.Generator().manual_seed(C)
    x = torch.randn(2, 5, 7, C, generator=generator) * 3
    x.view(-1)[: SPECIAL.numel()] = SPECIAL
    source = x.permute(0, 3, 1, 2).contiguous() if planes else channel_slice(x, 4)
    x_image, x_stride, x_channel = (C * 35, 1, 35) if planes else (35 * (C + 4), C + 4, 1)
    y = channel_slice(torch.zeros(2, 5, 7, C, dtype=torch.uint8), 6)
    struct = problem(
        "Quantize", N=2, pixels=35, C=C, x_image=x_image, x_stride=x_stride, x_channel=x_channel, y_stride=C + 6,
        inverse_scale=1.0, zero=128,
    )  # fmt: skip
    _C.cpu.quantize(struct, THREADS)(source, y)
    assert torch.equal(y, reference.quantize(x, 1.0, 128))

    back = torch.zeros(2, 5, 7, C)
    struct = problem("Dequantize", pixels=70, C=C, x_stride=C + 6, y_stride=C, scale=0.37, zero=128)
    _C.cpu.dequantize(struct, THREADS)(y, back)
    assert torch.equal(back, reference.dequantize(y, 0.37, 128))


@pytest.mark.parametrize("C", [1, 16, 37])
def test_add_and_table(isa: str, C: int) -> None:
    generator = torch.Generator().manual_seed(C)
    a, b = (channel_slice(bytes_like(generator, 2, 5, 7, C), 6) for _ in range(2))
    y = channel_slice(torch.zeros(2, 5, 7, C, dtype=torch.uint8), 6)
    options = {
        "a_scale": 0.71, "a_zero": 128, "b_scale": 1.3, "b_zero": 3, "y_zero": 128, "low": 128, "high": 250,
    }  # fmt: skip
    struct = problem("Int8Add", pixels=70, C=C, a_stride=C + 6, b_stride=C + 6, y_stride=C + 6, **options)
    _C.cpu.int8_add(struct, THREADS)(a, b, y)
    assert torch.equal(y, reference.add(a, b, **options))

    values = bytes_like(generator, 256)
    struct = problem("ByteTable", pixels=70, C=C, x_stride=C + 6, y_stride=C + 6)
    _C.cpu.byte_table(struct, THREADS)(a, values, y)
    assert torch.equal(y, reference.table(a, values))


POOLS = [
    {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)},
    {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0), "ceil_mode": True},
    {"kernel_size": (9, 11), "stride": (1, 1), "padding": (0, 0)},
]


@pytest.mark.parametrize("C", [1, 70])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("mode", ["max", "average", "average with padding", "divided by 5"])
def test_pools(isa: str, C: int, pool: dict[str, Any], mode: str) -> None:
    generator = torch.Generator().manual_seed(C)
    x = channel_slice(bytes_like(generator, 2, 9, 11, C), 6)
    options = {"ceil_mode": False, **pool}
    if mode == "max":
        expected = nhwc(reference.max_pool2d(nchw(x), dilation=(1, 1), **options))
    else:
        expected = nhwc(
            reference.avg_pool2d(
                nchw(x), **options, count_include_pad=mode == "average with padding",
                divisor_override=5 if mode == "divided by 5" else None, scale=1.37, x_zero=128, y_zero=120,
            )
        )  # fmt: skip
    _, P, Q, _ = expected.shape
    y = channel_slice(torch.zeros(2, P, Q, C, dtype=torch.uint8), 6)
    pairs = {
        f"{short}_{axis}": value
        for short, name in (("kernel", "kernel_size"), ("stride", "stride"), ("pad", "padding"))
        for axis, value in zip("hw", pool[name], strict=True)
    }
    struct = problem(
        "Int8Pool", mode=_C.PoolMode.max if mode == "max" else _C.PoolMode.average, N=2, H=9, W=11, C=C, P=P, Q=Q,
        **pairs, dilation_h=1, dilation_w=1, count_include_pad=int(mode == "average with padding"),
        divisor_override=5 if mode == "divided by 5" else 0, x_stride=C + 6, y_stride=C + 6, scale=1.37, x_zero=128,
        y_zero=120,
    )  # fmt: skip
    _C.cpu.int8_pool2d(struct, THREADS)(x, y)
    assert torch.equal(y, expected)
