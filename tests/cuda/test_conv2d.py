"""The CUDA convolutions against float64, by plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import emulation
import pytest
import torch
import torch.nn.functional as F
from harness import assert_parity, pixels, problem, surroundings_untouched

NAN, INF = float("nan"), float("inf")
DEVICE = {"capability": (9, 0), "shared_memory_per_block": 227 * 1024}


@dataclass(frozen=True)
class Conv:
    """A convolution and how its tensors lie."""

    N: int = 2
    C: int = 32
    H: int = 7
    W: int = 9
    K: int = 40
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: str | None = None
    bias: bool = True
    residual: bool = False
    x_offset: int = 0
    y_offset: int = 0

    def tensors(self, dtype: torch.dtype, device: str):
        """x, weight, bias, residual and an output full of NaN."""
        generator = torch.Generator().manual_seed(1)
        R, S = self.kernel
        P, Q = (
            (size + 2 * pad - d * (k - 1) - 1) // step + 1
            for size, pad, d, k, step in zip(
                (self.H, self.W), self.pad, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        x = pixels(self.N, self.C, self.H, self.W, dtype, offset=self.x_offset, device=device)
        depth = self.C // self.groups * R * S
        weight = torch.randn(self.K, self.C // self.groups, R, S, generator=generator) / depth**0.5
        weight = weight.to(dtype).to(device).contiguous(memory_format=torch.channels_last)
        bias = torch.randn(self.K, generator=generator).to(dtype).to(device) if self.bias else None
        residual = pixels(self.N, self.K, P, Q, dtype, seed=2, device=device) if self.residual else None
        y = pixels(self.N, self.K, P, Q, dtype, offset=self.y_offset, fill=NAN, device=device)
        return x, weight, bias, residual, y

    def problem(self, dtype: torch.dtype, y: torch.Tensor):
        R, S = self.kernel
        return problem(
            "Conv2dProblem", dtype=dtype, activation=self.activation, has_bias=self.bias, has_residual=self.residual,
            N=self.N, H=self.H, W=self.W, C=self.C, K=self.K, R=R, S=S, P=y.shape[2], Q=y.shape[3],
            stride_h=self.stride[0], stride_w=self.stride[1], pad_h=self.pad[0], pad_w=self.pad[1],
            dilation_h=self.dilation[0], dilation_w=self.dilation[1], groups=self.groups,
            x_stride=self.C + self.x_offset, y_stride=self.K + self.y_offset, residual_stride=self.K,
        )  # fmt: skip

    def definition(self, x, weight, bias, residual):
        y = F.conv2d(x, weight, bias, self.stride, self.pad, self.dilation, self.groups)
        if residual is not None:
            y = y + residual
        functions = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
        return functions[self.activation](y) if self.activation else y


def round_to_tf32(x: torch.Tensor) -> torch.Tensor:
    bits = x.contiguous().view(torch.int32)
    return torch.where(x.isfinite(), ((bits + 0x1000) & ~0x1FFF).view(torch.float32), x)


def without_ties(x: torch.Tensor) -> None:
    """Sets the last bit: no number lies between two of tf32, where the copy engine's choice is unknown."""
    if x.dtype == torch.float32:
        torch.as_strided(x, (x.untyped_storage().nbytes() // 4,), (1,), 0).view(torch.int32).bitwise_or_(1)


def run(runner, conv: Conv, dtype: torch.dtype, plan: str, change=lambda *tensors: None):
    """Runs the convolution by the plan and judges it. change: modifies the tensors first."""
    x, weight, bias, residual, y = conv.tensors(dtype, runner.device)
    without_ties(x)
    without_ties(weight)
    change(x, weight, bias, residual)
    p, chosen = conv.problem(dtype, y), runner.cuda.Conv2dPlan(plan)
    assert runner.cuda.conv2d_plan_reason(p, chosen, **DEVICE) == ""
    workspace = torch.full((runner.cuda.conv2d_workspace_bytes(p, chosen) // 4,), NAN, device=runner.device)
    if not workspace.numel():
        workspace = None
    runner.run(runner.cuda.conv2d, p, chosen, read=[x, weight, bias, residual], write=[y, workspace])
    tensors = [None if t is None else t.detach().cpu() for t in (x, weight, bias, residual)]
    slack = 0.0
    if plan.endswith("tf32") and dtype == torch.float32:
        # Against the inputs as the tensor core sees them: a look 200 times closer than tf32's own error of 2^-11.
        # What remains is the sum's. One instruction adds 8 products to the sum and cuts the result off towards zero,
        # where PyTorch's CPU kernels round: a loss of 0 to 1 units in the last place, 1/2 on average, always to the
        # same side, so that depth / 8 of them add up to depth / 16 units give or take sqrt(depth / 8 / 12). A unit is
        # at most 2^-23 of the partial sum, which seldom passes the largest result.
        tensors[:2] = [round_to_tf32(t) for t in tensors[:2]]
        slack = conv.C // conv.groups * conv.kernel[0] * conv.kernel[1] / 8 * 2.0**-24
    exact = conv.definition(*(None if t is None else t.double() for t in tensors))
    assert_parity(y, exact, conv.definition(*tensors), slack)
    assert surroundings_untouched(y)


def sm80(tile: str = "64x64", splits: int = 1, mode: str = "tf32", gather: bool = False) -> str:
    return f"sm80{'_gather' * gather}/{tile}/stages=4/splits={splits}/{mode}"


def sm90(runner, width: int, dtype: torch.dtype = torch.float16) -> str:
    """The Hopper plan of this width of tile: its stages follow from what fits into shared memory."""
    p = Conv(C=64, K=256, pad=(0, 0), kernel=(1, 1)).problem(dtype, torch.empty(1, 1, 7, 9))
    plans = runner.cuda.conv2d_plans(p, multiprocessors=132, tf32=True, **DEVICE)
    return next(plan.name for plan in plans if plan.kernel == "sm90" and plan.tile_n == width)


BASE = Conv()
CASES = {
    "3x3": BASE,
    "3x3 stride 2": replace(BASE, stride=(2, 2), H=8, activation="relu"),
    "1x1 residual": replace(BASE, kernel=(1, 1), pad=(0, 0), residual=True, activation="relu"),
    "1x1 stride 2": replace(BASE, kernel=(1, 1), pad=(0, 0), stride=(2, 2), bias=False),
    "5x5": replace(BASE, kernel=(5, 5), pad=(2, 2), C=16, K=24),
    "3x5 dilated": replace(BASE, kernel=(3, 5), dilation=(2, 1), pad=(2, 0), C=8, activation="tanh"),
    "groups": replace(BASE, groups=2, C=48, K=80, activation="sigmoid"),
    "slices": replace(BASE, x_offset=8, y_offset=16, C=40, K=72, residual=True),
    "ragged K": replace(BASE, K=37, y_offset=3, residual=True, activation="relu"),
}
RAGGED = {
    "one channel": replace(BASE, C=1, K=6, kernel=(5, 5), pad=(0, 0), activation="tanh"),
    "stem": replace(BASE, N=1, C=3, H=13, W=15, K=64, kernel=(7, 7), stride=(2, 2), pad=(3, 3), activation="relu"),
    "odd channels": replace(BASE, C=13, K=21, x_offset=5, y_offset=1, residual=True),
    "groups": replace(BASE, C=9, K=12, groups=3),
    "depthwise": replace(BASE, C=6, K=6, groups=6),
}
# Groups of as many channels in as out, up to a vector of them.
GROUPED = {
    "depthwise": replace(BASE, C=24, K=24, groups=24, activation="relu"),
    "depthwise stride 2": replace(BASE, N=3, C=40, H=8, W=11, K=40, groups=40, stride=(2, 2), bias=False),
    "one row, 31 taps": replace(BASE, C=16, H=1, W=37, K=16, groups=16, kernel=(1, 31), pad=(0, 15)),
    "groups of 2, dilated": replace(BASE, C=16, K=16, groups=8, dilation=(2, 3), pad=(2, 3), activation="tanh"),
    "groups of 4, slices": replace(BASE, C=32, K=32, groups=8, x_offset=8, y_offset=16, residual=True),
    "groups of 8": replace(BASE, N=1, C=64, H=5, W=13, K=64, groups=8, kernel=(5, 3), pad=(1, 0), activation="relu"),
    "more channels than a block has": replace(BASE, N=1, C=528, H=3, W=3, K=528, groups=528),
}
HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float16(runner, case):
    run(runner, CASES[case], torch.float16, sm80())


@pytest.mark.parametrize("tile", ["128x128", "128x64", "64x64", "128x32"])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_tiles(runner, tile, dtype):
    run(runner, replace(BASE, C=40, K=136, H=6, W=5, N=5, kernel=(1, 3), pad=(0, 1)), dtype, sm80(tile))


@pytest.mark.parametrize("case", RAGGED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_gather(runner, case, dtype):
    run(runner, RAGGED[case], dtype, sm80(gather=True))


@pytest.mark.parametrize("gather", [False, True], ids=["copies", "gather"])
@pytest.mark.parametrize("mode", ["strict", "tf32"])
def test_float32(runner, mode, gather):
    run(runner, replace(BASE, residual=True, activation="relu"), torch.float32, sm80(mode=mode, gather=gather))


def grouped(dtype: torch.dtype) -> str:
    return f"grouped/4x{16 // dtype.itemsize}/stages=1/splits=1/strict"


@pytest.mark.parametrize("case", GROUPED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_grouped(runner, case, dtype, monkeypatch):
    if dtype == torch.float32 and case == "groups of 8":
        return  # the tensor cores'
    # On processors with AMX oneDNN does not come back from generating a half-precision depthwise kernel of 15 taps.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    run(runner, GROUPED[case], dtype, grouped(dtype))


def test_grouped_bfloat16(runner):
    run(runner, GROUPED["groups of 4, slices"], torch.bfloat16, grouped(torch.bfloat16))


@pytest.mark.slow
@pytest.mark.emulated
@pytest.mark.parametrize("case", ["depthwise", "groups of 4, slices"])
def test_grouped_every_schedule(every_schedule, case):
    run(every_schedule, GROUPED[case], torch.float16, grouped(torch.float16))


def test_infinity_in_one_group_is_not_seen_by_its_neighbours(runner):
    """As it would be, times zero, if groups were laid side by side in one matrix."""

    def poison(x, weight, bias, residual):
        x[0, 5, 2, 2], x[1, 0, 3, 3] = INF, NAN

    run(runner, GROUPED["groups of 4, slices"], torch.float16, grouped(torch.float16), poison)


@pytest.mark.parametrize("splits", [2, 3, 7])
@pytest.mark.parametrize("K", [40, 37])
def test_split_sum(runner, splits, K):
    conv = replace(BASE, N=1, C=64, K=K, H=5, W=5, residual=True, activation="relu")
    run(runner, conv, torch.float16, sm80(splits=splits))
    run(runner, conv, torch.float32, sm80(splits=splits, mode="strict"))


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, *(f"ragged {name}" for name in RAGGED)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("mode", ["tf32", "strict"])
def test_every_dtype(runner, case, dtype, mode):
    ragged = case.startswith("ragged ") and case not in CASES
    conv = RAGGED[case.removeprefix("ragged ")] if ragged else CASES[case]
    run(runner, conv, dtype, sm80(mode=mode, gather=ragged))


@pytest.mark.slow
@pytest.mark.emulated
@pytest.mark.parametrize("tile", ["128x128", "128x64", "64x64", "128x32"])
def test_every_schedule(every_schedule, tile):
    conv = replace(BASE, C=40, K=136, H=6, W=5, N=5, residual=True)
    run(every_schedule, conv, torch.float16, sm80(tile))
    run(every_schedule, conv, torch.float16, sm80(tile, splits=2))
    run(every_schedule, replace(conv, C=3), torch.float32, sm80(gather=True))


def test_nan_and_infinity_stay_where_they_belong(runner):
    def poison(x, weight, bias, residual):
        x[0, 3, 2, 2], x[1, 0, 0, 0] = NAN, INF
        weight[5] = weight[5].abs() + 0.01

    # One tap sees each poisoned pixel once; a neighbouring tile or a padded row must not.
    run(runner, replace(BASE, K=8), torch.float16, sm80(), poison)
    run(runner, replace(BASE, K=8, activation="relu"), torch.bfloat16, sm80("128x32"), poison)


@pytest.mark.parametrize("gather", [False, True], ids=["copies", "gather"])
def test_strict_float32_takes_infinity_and_the_largest_numbers(runner, gather):
    """Its three products must not make NaN of them: infinity minus its rounding, infinity times a zero remainder."""

    def poison(x, weight, bias, residual):
        x[0, 3, 2, 2], x[1, 0, 0, 0], x[1, 9, 6, 8] = NAN, INF, -INF
        x[0, 5, 5, 6] = torch.finfo(torch.float32).max  # rounds to infinity in tf32
        weight[4], weight[5] = 1.0, 0.1  # without and with a remainder
        weight[6, 2, 1, 1], weight[7, 0, 0, 0] = INF, NAN

    # Without padding: 0 times an infinite weight, where a tap lies outside the image, is no number to compare.
    conv = replace(BASE, K=8, pad=(0, 0), residual=True)
    run(runner, conv, torch.float32, sm80(mode="strict", gather=gather), poison)


def test_unaligned_tensors_run_by_the_gathering_kernel(runner):
    """A plan is remembered by shapes and strides; a later tensor may start at any element."""
    conv = replace(BASE, x_offset=8)
    x, weight, bias, residual, y = conv.tensors(torch.float16, runner.device)
    shifted = torch.as_strided(x, x.shape, x.stride(), x.storage_offset() - 4)
    shifted.copy_(x.clone())
    runner.run(runner.cuda.conv2d, conv.problem(torch.float16, y), runner.cuda.Conv2dPlan(sm80("128x64")),
               read=[shifted, weight, bias, residual], write=[y, None])  # fmt: skip
    tensors = [t.cpu() for t in (shifted, weight, bias)]
    assert_parity(y, conv.definition(*(t.double() for t in tensors), None), conv.definition(*tensors, None))


@pytest.mark.parametrize(("N", "D", "M"), [(1, 120, 84), (3, 84, 10), (70, 64, 65)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_linear(runner, N, D, M, dtype):
    x, weight, bias = (torch.randn(s).to(dtype).to(runner.device) for s in ((N, D), (M, D), (M,)))
    y = torch.full((N, M), NAN, dtype=dtype, device=runner.device)
    linear = problem("LinearProblem", dtype=dtype, activation="relu", has_bias=True, N=N, D=D, M=M, x_stride=D,
                     y_stride=M)  # fmt: skip
    p = runner.cuda.conv2d_from_linear(linear)
    plan = runner.cuda.conv2d_plans(p, multiprocessors=4, tf32=False, **DEVICE)[0]
    workspace = torch.zeros(max(16, runner.cuda.conv2d_workspace_bytes(p, plan)) // 4, device=runner.device)
    runner.run(runner.cuda.conv2d, p, plan, read=[x, weight, bias, None], write=[y, workspace])
    tensors = [t.cpu() for t in (x, weight, bias)]
    assert_parity(y, torch.relu(F.linear(*(t.double() for t in tensors))), torch.relu(F.linear(*tensors)))


@pytest.mark.emulated
class TestPlans:
    """The choice of kernel, tile and split, which needs no device."""

    @pytest.fixture
    def cuda(self):
        return emulation.load().cuda

    def plans(self, cuda, conv: Conv, dtype=torch.float16, multiprocessors=132, tf32=False, **device):
        y = torch.empty(conv.N, conv.K, conv.H, conv.W)
        p = conv.problem(dtype, y)
        return cuda.conv2d_plans(p, multiprocessors=multiprocessors, tf32=tf32, **{**DEVICE, **device})

    def test_names_round_trip(self, cuda):
        for plan in self.plans(cuda, replace(BASE, C=64)):
            assert cuda.Conv2dPlan(plan.name).name == plan.name
        with pytest.raises(ValueError, match='"fast" is not a plan'):
            cuda.Conv2dPlan("fast")

    def test_large_batches_take_large_tiles_and_small_ones_are_split(self, cuda):
        large = self.plans(cuda, Conv(N=128, C=256, H=28, W=28, K=256), capability=(8, 0))[0]
        assert (large.tile_m, large.tile_n, large.splits) == (128, 128, 1)
        small = self.plans(cuda, Conv(N=1, C=512, H=7, W=7, K=512), capability=(8, 0))[0]
        assert small.splits > 1
        assert small.tile_m == 64

    def test_hopper_takes_the_width_that_fits(self, cuda):
        narrow = self.plans(cuda, Conv(N=128, C=64, H=56, W=56, K=64))[0]
        assert (narrow.kernel, narrow.tile_n) == ("sm90_resident", 64)
        for K in (64, 96, 208):
            plan = self.plans(cuda, Conv(N=128, C=192, H=28, W=28, K=K))[0]
            assert (plan.kernel, plan.tile_n) == ("sm90", K)
        assert "sm90" not in {plan.kernel for plan in self.plans(cuda, Conv(C=64), capability=(10, 0))}
        assert "sm90" not in {plan.kernel for plan in self.plans(cuda, Conv(C=64), dtype=torch.float32)}
        assert "sm90" in {plan.kernel for plan in self.plans(cuda, Conv(C=64), dtype=torch.float32, tf32=True)}

    def predict(self, cuda, conv: Conv, plan=None):
        """The best plan, or the one named, its seconds on an H100 at 1755 MHz, its TFLOP/s, and the share of SMs."""
        P, Q = (conv.H - 1) // conv.stride[0] + 1, (conv.W - 1) // conv.stride[1] + 1
        p = conv.problem(torch.float16, torch.empty(conv.N, conv.K, P, Q, device="meta"))
        best = cuda.conv2d_plans(p, multiprocessors=132, tf32=False, **DEVICE)[0]
        cycles, share = cuda.conv2d_plan_prediction(p, cuda.Conv2dPlan(plan) if plan else best, multiprocessors=132,
                                                    **DEVICE)  # fmt: skip
        flops = 2 * conv.N * P * Q * conv.K * conv.C * conv.kernel[0] * conv.kernel[1]
        return best, cycles / 1755e6, flops / cycles * 1755e6 / 1e12, share

    def test_the_model_meets_published_rates(self, cuda):
        """A product of 8192^3 without clusters: 658 to 808 TFLOP/s are published for tiles of 128x256, one H100."""
        product = Conv(N=1, C=8192, H=1, W=8192, K=8192, kernel=(1, 1), pad=(0, 0))
        best, _, rate, _ = self.predict(cuda, product)
        assert (best.kernel, best.tile_n) == ("sm90", 256)
        assert 650 < rate < 810

    def test_layers_bound_by_l2_take_wide_tiles_and_those_bound_by_memory_the_kernel_that_overlaps(self, cuda):
        """A model without L2 took 64 columns for 7x7x512 at batch 128, half of which waits for L2."""
        deep = Conv(N=128, C=512, H=7, W=7, K=512)
        best, seconds, _, share = self.predict(cuda, deep)
        assert best.tile_n == 256
        narrow = "sm90/128x64/stages=6/splits=1/strict"
        assert self.predict(cuda, deep, narrow)[1] > 1.2 * seconds
        assert share == pytest.approx(98 / 132)
        wide = Conv(N=128, C=64, H=56, W=56, K=256, kernel=(1, 1), pad=(0, 0))
        best, seconds, *_ = self.predict(cuda, wide)
        assert best.kernel == "sm90"
        floor = 2 * 128 * 56 * 56 * (64 + 256) / 3.0e12
        assert floor < seconds < 1.5 * floor

    def test_narrow_groups_have_a_kernel_of_their_own(self, cuda):
        for groups, kernel in ((192, "grouped"), (48, "grouped"), (2, "sm80")):
            conv = Conv(N=8, C=192, H=28, W=28, K=192, groups=groups)
            assert self.plans(cuda, conv)[0].kernel == kernel
            assert self.plans(cuda, conv, capability=(8, 0))[0].kernel == kernel
        p = BASE.problem(torch.float16, torch.empty(2, 40, 7, 9))
        plan = cuda.Conv2dPlan(grouped(torch.float16))
        assert "for groups" in cuda.conv2d_plan_reason(p, plan, **DEVICE)
        uneven = replace(BASE, C=24, K=48, groups=24).problem(torch.float16, torch.empty(2, 48, 7, 9))
        assert "as many output channels" in cuda.conv2d_plan_reason(uneven, plan, **DEVICE)
        wide = replace(BASE, C=96, K=96, groups=2).problem(torch.float16, torch.empty(2, 96, 7, 9))
        assert "up to 8 channels" in cuda.conv2d_plan_reason(wide, plan, **DEVICE)

    def test_ragged_channels_are_gathered(self, cuda):
        assert {plan.kernel for plan in self.plans(cuda, Conv(C=3))} == {"sm80_gather"}

    def test_every_plan_says_why_not(self, cuda):
        y = torch.empty(2, 40, 7, 9)
        p = BASE.problem(torch.float16, y)
        reason = cuda.conv2d_plan_reason
        assert "8.0" in reason(p, cuda.Conv2dPlan(sm80()), (7, 5), 227 * 1024)
        assert "no such tile" in reason(p, cuda.Conv2dPlan(sm80("96x64")), (9, 0), 227 * 1024)
        assert "shared memory" in reason(p, cuda.Conv2dPlan(sm80("128x128")), (9, 0), 48 * 1024)
        assert "splits is 99" in reason(p, cuda.Conv2dPlan(sm80(splits=99)), (9, 0), 227 * 1024)
        ragged = replace(BASE, C=13).problem(torch.float16, y)
        plan = cuda.Conv2dPlan("sm90/128x64/stages=6/splits=1/tf32")
        squashed = replace(BASE, activation="tanh").problem(torch.float16, y)
        assert "no activation but relu" in reason(squashed, plan, (9, 0), 227 * 1024)
        assert "multiples of 16 bytes" in reason(ragged, cuda.Conv2dPlan(sm80()), (9, 0), 227 * 1024)
        assert self.plans(cuda, BASE, capability=(7, 5)) == []

    def test_huge_problems_have_plans_or_reasons(self, cuda):
        """Index arithmetic: 2^31 elements pass, what passes a kernel's limit is refused in words."""
        assert self.plans(cuda, Conv(N=4096, C=64, H=112, W=112, K=64))
        huge = Conv(N=1, C=8, H=70000, W=70000, K=8)
        p = huge.problem(torch.float16, torch.empty(1, 1, 70000, 70000, device="meta"))
        assert "pixel count" in cuda.conv2d_plan_reason(p, cuda.Conv2dPlan(sm80()), **DEVICE)


def test_a_missing_workspace_is_an_error(runner):
    *_, y = BASE.tensors(torch.float16, runner.device)
    with pytest.raises(ValueError, match="2 splits need a workspace of"):
        runner.cuda.conv2d(BASE.problem(torch.float16, y), runner.cuda.Conv2dPlan(sm80(splits=2)), 16, 16, 0, 0, 16)


HOPPER = {
    "3x3": replace(BASE, C=64, K=64, activation="relu"),
    "3x3 stride 2": replace(BASE, N=3, C=72, stride=(2, 2), H=8, residual=True, activation="relu"),
    "1x1": replace(BASE, kernel=(1, 1), pad=(0, 0), C=136, K=24, H=12, W=20, residual=True),
    "1x1 stride 2": replace(BASE, kernel=(1, 1), pad=(0, 0), C=64, stride=(2, 2), bias=False),
    "5x5 slices": replace(BASE, kernel=(5, 5), pad=(2, 2), C=16, K=40, x_offset=16, y_offset=24, activation="relu"),
    "dilated": replace(BASE, N=1, dilation=(2, 3), pad=(2, 3), C=8),
    "one image": replace(BASE, N=1, H=14, W=14, C=64, K=48, residual=True, activation="relu"),
    # Boxes wholly outside x, on both sides, and outside y: the padding is wider than the image.
    "boxes outside": replace(BASE, N=1, H=4, W=4, C=64, K=72, dilation=(9, 9), pad=(9, 9), residual=True),
    "wide image": replace(BASE, N=1, H=1, W=150, C=8, kernel=(1, 3), pad=(0, 1), residual=True),
}


@pytest.mark.parametrize("case", HOPPER, ids=str)
def test_hopper(hopper, case):
    run(hopper, HOPPER[case], torch.float16, sm90(hopper, 64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_hopper_types(hopper, dtype):
    run(hopper, HOPPER["3x3 stride 2"], dtype, sm90(hopper, 32, dtype))


@pytest.mark.parametrize("width", [48, 96, 208])
def test_hopper_widths(hopper, width):
    """Staging slices of 32, 64 and 32 bytes; a tile that K fills and one that it does not."""
    run(
        hopper,
        replace(BASE, N=1, K=208, C=24, kernel=(1, 1), pad=(0, 0), residual=True),
        torch.float16,
        sm90(hopper, width),
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("width", [32, 48, 64, 96, 112, 128, 144, 160, 192, 208, 224, 256])
def test_hopper_every_width(hopper, width, dtype):
    if dtype == torch.float32 and width not in (32, 64, 96, 128, 192):
        return
    run(hopper, replace(BASE, K=272, C=72, residual=True, activation="relu"), dtype, sm90(hopper, width, dtype))


@pytest.mark.slow
@pytest.mark.emulated
@pytest.mark.parametrize("case", HOPPER, ids=str)
def test_hopper_every_schedule(every_schedule, case):
    run(every_schedule, HOPPER[case], torch.float16, sm90(every_schedule, 64))


RESIDENT = "sm90_resident/128x64/stages=6/splits=1/tf32"
RESIDENT_CASES = {
    "3x3": replace(BASE, C=64, K=64, activation="relu"),
    "ragged, several tiles": replace(BASE, N=3, C=40, K=24, H=19, W=23, residual=True, activation="relu"),
    "tall, no padding": replace(BASE, N=1, C=64, K=64, H=34, W=10, pad=(0, 0), bias=False),
    "wide padding": replace(BASE, C=24, K=48, pad=(2, 3), residual=True),
    "slices": replace(BASE, C=16, K=40, x_offset=16, y_offset=24),
}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("case", RESIDENT_CASES, ids=str)
def test_hopper_resident(hopper, case, dtype):
    run(hopper, RESIDENT_CASES[case], dtype, RESIDENT)


@pytest.mark.slow
@pytest.mark.emulated
@pytest.mark.parametrize("case", list(RESIDENT_CASES)[:3], ids=str)
def test_hopper_resident_every_schedule(every_schedule, case):
    run(every_schedule, RESIDENT_CASES[case], torch.float16, RESIDENT)


def test_hopper_runs_unaligned_output_by_another_kernel(hopper):
    conv = replace(BASE, y_offset=8)
    x, weight, bias, _, y = conv.tensors(torch.float16, hopper.device)
    y = torch.as_strided(y, y.shape, y.stride(), y.storage_offset() - 1)
    hopper.run(hopper.cuda.conv2d, conv.problem(torch.float16, y), hopper.cuda.Conv2dPlan(sm90(hopper, 64)),
               read=[x, weight, bias, None], write=[y, None])  # fmt: skip
    tensors = [t.cpu() for t in (x, weight, bias)]
    assert_parity(y, conv.definition(*(t.double() for t in tensors), None), conv.definition(*tensors, None))
