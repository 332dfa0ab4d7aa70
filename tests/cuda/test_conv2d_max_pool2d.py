"""The fused stem in CUDA C++ against float64: convolution of few channels + bias + activation + max-pool."""

from __future__ import annotations

from dataclasses import dataclass, replace

import emulation
import pytest
import torch
import torch.nn.functional as F
from harness import assert_parity, pixels, problem, surroundings_untouched
from test_conv2d import DEVICE, round_to_tf32

from fastcnn.core import activations
from fastcnn.ops.conv2d_max_pool2d.cuda import pack_weight

NAN, INF = float("nan"), float("inf")
HALVES = [torch.float16, torch.bfloat16]


@dataclass(frozen=True)
class Stem:
    """A stem and how its tensors lie. tile: of pooled pixels; chosen by the planner where there is none."""

    N: int = 2
    C: int = 3
    H: int = 19
    W: int = 23
    K: int = 16
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pool: tuple[int, int] = (3, 3)
    pool_stride: tuple[int, int] = (2, 2)
    pool_pad: tuple[int, int] = (0, 0)
    pool_dilation: tuple[int, int] = (1, 1)
    ceil: bool = False
    activation: str | None = "relu"
    bias: bool = True
    x_offset: int = 0
    y_offset: int = 0
    tile: tuple[int, int] | None = None

    def convolution(self, x, weight, bias):
        return F.conv2d(x, weight, bias, self.stride, self.pad, self.dilation)

    def definition(self, x, weight, bias):
        y = activations.apply(self.activation, self.convolution(x, weight, bias))
        return F.max_pool2d(y, self.pool, self.pool_stride, self.pool_pad, self.pool_dilation, self.ceil)

    def problems(self, dtype, conv_shape, y):
        (R, S), (_, _, P, Q) = self.kernel, conv_shape
        conv = problem(
            "Conv2dProblem", dtype=dtype, activation=self.activation, has_bias=self.bias, N=self.N, H=self.H, W=self.W,
            C=self.C, K=self.K, R=R, S=S, P=P, Q=Q, stride_h=self.stride[0], stride_w=self.stride[1],
            pad_h=self.pad[0], pad_w=self.pad[1], dilation_h=self.dilation[0], dilation_w=self.dilation[1], groups=1,
            x_stride=self.C + self.x_offset, y_stride=self.K,
        )  # fmt: skip
        pool = problem(
            "Pool2dProblem", dtype=dtype, mode="max", N=self.N, H=P, W=Q, C=self.K, P=y.shape[2], Q=y.shape[3],
            kernel_h=self.pool[0], kernel_w=self.pool[1], stride_h=self.pool_stride[0], stride_w=self.pool_stride[1],
            pad_h=self.pool_pad[0], pad_w=self.pool_pad[1], dilation_h=self.pool_dilation[0],
            dilation_w=self.pool_dilation[1], x_stride=self.K, y_stride=self.K + self.y_offset,
        )  # fmt: skip
        return conv, pool


def run(runner, stem: Stem, dtype: torch.dtype, tf32: bool = False, change=lambda *tensors: None):
    """Runs the stem and judges it. change: modifies the tensors first."""
    generator = torch.Generator().manual_seed(1)
    x = pixels(stem.N, stem.C, stem.H, stem.W, dtype, offset=stem.x_offset, device=runner.device)
    weight = torch.randn(stem.K, stem.C, *stem.kernel, generator=generator)
    weight = (weight / weight[0].numel() ** 0.5).to(dtype).to(runner.device)
    bias = torch.randn(stem.K, generator=generator).to(dtype).to(runner.device) if stem.bias else None
    change(x, weight, bias)
    tensors = [None if t is None else t.detach().cpu() for t in (x, weight, bias)]
    if tf32:
        tensors[:2] = [round_to_tf32(t) for t in tensors[:2]]
    exact = stem.definition(*(None if t is None else t.double() for t in tensors))
    y = pixels(*exact.shape, dtype, offset=stem.y_offset, fill=NAN, device=runner.device)
    conv, pool = stem.problems(dtype, stem.convolution(*tensors).shape, y)
    plan, reason = runner.cuda.conv2d_max_pool2d_plan(conv, pool, tf32=tf32, **DEVICE)
    assert reason == ""
    if stem.tile:
        plan = runner.cuda.Conv2dMaxPool2dPlan(*stem.tile, tf32)
    w = pack_weight(weight, runner.cuda.conv2d_max_pool2d_tile_k(conv.dtype))
    runner.run(runner.cuda.conv2d_max_pool2d, conv, pool, plan, read=[x, w, bias], write=[y])
    slack = 0.0
    if dtype == torch.float32:
        # As in test_conv2d.run; three products leave out that of the remainders, 2^-22 of the whole, and a sum of
        # three terms, as a 1x1 filter has, hides no such error.
        slack = stem.C * stem.kernel[0] * stem.kernel[1] / 8 * 2.0**-24 if tf32 else 2.0**-22
    assert_parity(y, exact, stem.definition(*tensors), slack)
    assert surroundings_untouched(y)
    return y


BASE = Stem()
RESNET = replace(BASE, N=1, H=41, W=45, K=64, kernel=(7, 7), stride=(2, 2), pad=(3, 3), pool_pad=(1, 1))
CASES = {
    "ResNet": RESNET,
    "GoogLeNet": replace(RESNET, pool_pad=(0, 0), ceil=True, W=47),
    "AlexNet": replace(BASE, N=1, H=63, W=67, K=96, kernel=(11, 11), stride=(4, 4), pad=(2, 2)),
    "LeNet": replace(BASE, C=1, H=24, W=28, K=6, kernel=(5, 5), pad=(0, 0), pool=(2, 2), activation="tanh"),
    "VGG-like": replace(BASE, pool=(2, 2), K=24),
    "ragged K": replace(BASE, K=37, y_offset=3, x_offset=5),
    "slices": replace(BASE, K=72, y_offset=8, x_offset=1),
    "four channels": replace(BASE, C=4, activation=None, bias=False),
    "two channels": replace(BASE, C=2, activation="sigmoid"),
    "unlike sides": replace(BASE, kernel=(3, 2), stride=(2, 3), pad=(0, 1), dilation=(1, 2), pool=(2, 3),
                            pool_stride=(1, 2), pool_pad=(1, 0), activation="scaled_tanh"),
    "dilated windows": replace(BASE, pool=(2, 2), pool_stride=(3, 2), pool_dilation=(2, 3), pool_pad=(1, 1)),
    "last window": replace(BASE, H=18, W=18, pool=(2, 2), ceil=True, kernel=(2, 2), pad=(0, 0)),
    "one pixel": replace(BASE, N=3, H=1, W=1, kernel=(1, 1), pad=(0, 0), pool=(1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float16(runner, case):
    run(runner, CASES[case], torch.float16)


@pytest.mark.parametrize("case", ["LeNet", "ragged K", "slices", "two channels"], ids=str)
@pytest.mark.parametrize(
    ("dtype", "tf32"), [(torch.bfloat16, False), (torch.float32, False), (torch.float32, True)], ids=str
)
def test_dtypes(runner, case, dtype, tf32):
    run(runner, CASES[case], dtype, tf32)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tf32"), [(torch.bfloat16, False), (torch.float32, False), (torch.float32, True)], ids=str
)
def test_every_dtype(runner, case, dtype, tf32):
    run(runner, CASES[case], dtype, tf32)


@pytest.mark.parametrize("tile", [(1, 1), (2, 3), (7, 7), (1, 11)], ids=str)
def test_tiles(runner, tile):
    """Tiles that end inside and outside the image, several a block: the emulator has few multiprocessors."""
    run(runner, replace(BASE, tile=tile), torch.float16)


def test_nan_and_infinity_stay_where_they_belong(runner):
    """Among them the pixels right of a filter's last tap and in an image's last column, which padding stands beside."""

    def change(x, weight, bias):
        x[0, 0, 3, 5], x[0, 2, 18, 22], x[1, 1, 0, 0], x[1, 2, 9, 11] = NAN, INF, -INF, INF

    for dtype, tf32 in ((torch.float16, False), (torch.bfloat16, False), (torch.float32, False), (torch.float32, True)):
        run(runner, replace(BASE, activation=None), dtype, tf32, change)
        run(
            runner,
            replace(BASE, pool_pad=(1, 1), C=1, x_offset=2),
            dtype,
            tf32,
            lambda x, w, b: change(x[:, [0, 0, 0]], w, b),
        )
    run(runner, BASE, torch.float16, change=change)


def test_everything_at_minus_infinity(runner):
    """Padding is no maximum, not even of -infinity; ReLU lifts it to 0 as PyTorch does."""

    def change(x, weight, bias):
        bias.fill_(-INF)

    for activation in (None, "relu", "tanh"):
        run(runner, replace(BASE, pool_pad=(1, 1), activation=activation), torch.float16, change=change)


def test_a_window_of_padding_alone(runner):
    point = replace(BASE, N=1, H=1, W=1, kernel=(1, 1), pad=(0, 0))
    stem = replace(point, pool=(2, 2), pool_stride=(1, 1), pool_dilation=(2, 2), pool_pad=(1, 1))
    assert run(runner, stem, torch.float16).eq(-INF).all()


def test_an_empty_batch_launches_nothing(runner):
    y = torch.empty(0, 16, 9, 11)
    conv, pool = replace(BASE, N=0).problems(torch.float16, (0, 16, 19, 23), y)
    plan = runner.cuda.Conv2dMaxPool2dPlan(1, 1, False)
    runner.run(runner.cuda.conv2d_max_pool2d, conv, pool, plan, read=[None] * 3, write=[None])


def test_unaligned_output(runner):
    run(runner, replace(BASE, y_offset=1), torch.float16)


@pytest.mark.emulated
class TestPlans:
    @pytest.fixture
    def cuda(self):
        return emulation.load().cuda

    @staticmethod
    def plan(cuda, stem, dtype=torch.float16, capability=(9, 0), shared=227 * 1024):
        tensors = torch.empty(1, stem.C, stem.H, stem.W), torch.empty(stem.K, stem.C, *stem.kernel), None
        meta = [None if t is None else t.to("meta") for t in tensors]
        conv, pool = stem.problems(dtype, stem.convolution(*meta).shape, stem.definition(*meta))
        return cuda.conv2d_max_pool2d_plan(conv, pool, capability, shared, False)

    def test_resnet_wastes_one_pixel_in_256(self, cuda):
        plan, reason = self.plan(cuda, replace(RESNET, H=224, W=224))
        assert reason == ""
        assert sorted((plan.tile_p, plan.tile_q)) == [7, 8]

    def test_less_shared_memory_means_smaller_tiles(self, cuda):
        alexnet = replace(CASES["AlexNet"], H=224, W=224)
        areas = []
        for shared in (227 * 1024, 99 * 1024):
            plan, reason = self.plan(cuda, alexnet, torch.float32, shared=shared)
            assert reason == ""
            areas.append(plan.tile_p * plan.tile_q)
        assert areas[0] > areas[1]

    @pytest.mark.parametrize(
        ("change", "how", "reason"),
        [
            ({"C": 5}, {}, "up to 4 input channels, the input has 5"),
            ({}, {"capability": (7, 5)}, "8.0"),
            ({}, {"shared": 4 * 1024}, "least shared memory"),
            ({"pool": (17, 17)}, {}, "covers more than 256 pixels"),
            ({"pool": (9, 9), "pool_stride": (1, 1), "H": 60, "W": 60}, {}, "twice as many pixels"),
        ],
    )
    def test_it_says_why_not(self, cuda, change, how, reason):
        assert reason in self.plan(cuda, replace(BASE, **change), **how)[1]


@pytest.mark.emulated
@pytest.mark.slow
@pytest.mark.parametrize("case", ["ResNet", "LeNet", "slices"])
def test_every_schedule(every_schedule, case):
    run(every_schedule, CASES[case], torch.float16)
    run(every_schedule, replace(CASES[case], tile=(2, 3)), torch.float32)
