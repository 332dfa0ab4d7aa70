"""Pools, LRN, concatenation, add + ReLU, RBF and subsampling on CUDA, against float64."""

import emulation
import harness
import pytest
import torch
import torch.nn.functional as F
from harness import assert_parity, pixels, problem, surroundings_untouched

from fastcnn.core import activations

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NAN, INF = float("nan"), float("inf")


def lrn_definition(x, size, alpha, beta, k):
    """As PyTorch computes it, in any dtype."""
    windows = F.pad(x * x, (0, 0, 0, 0, size // 2, (size - 1) // 2)).unfold(1, size, 1)
    return x / (k + alpha * (windows.sum(-1) / size)) ** beta


# C, stride, offset: aligned; a slice of a wider tensor; ragged; narrower than the window; one channel.
CHANNELS = [(16, None, 0), (24, 40, 8), (13, 17, 3), (3, None, 0), (1, None, 0)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("C", "stride", "offset"), CHANNELS)
@pytest.mark.parametrize("size", [5, 4, 1])
def test_lrn(runner, dtype, C, stride, offset, size):
    x = pixels(2, C, 3, 5, dtype, stride=stride, offset=offset, device=runner.device)
    y = pixels(2, C, 3, 5, dtype, stride=stride, offset=offset, fill=0, device=runner.device)
    p = problem("LrnProblem", dtype=dtype, pixels=30, C=C, size=size, alpha=0.5, beta=0.75, k=2.0,
                x_stride=stride or C + offset, y_stride=stride or C + offset)  # fmt: skip
    runner.run(runner.cuda.lrn, p, read=[x], write=[y])
    own = lrn_definition(x.cpu(), size, 0.5, 0.75, 2.0)
    assert_parity(y, lrn_definition(x.cpu().double(), size, 0.5, 0.75, 2.0), own)
    assert surroundings_untouched(y)


@pytest.mark.parametrize("size", [31, 40])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.3])
def test_lrn_wide_windows_and_other_powers(runner, size, beta):
    x = pixels(1, 32, 2, 3, torch.float32, device=runner.device)
    y = torch.empty_like(x)
    p = problem("LrnProblem", dtype=x.dtype, pixels=6, C=32, size=size, alpha=1.0, beta=beta, k=1.0, x_stride=32,
                y_stride=32)  # fmt: skip
    runner.run(runner.cuda.lrn, p, read=[x], write=[y])
    exact = lrn_definition(x.cpu().double(), size, 1.0, beta, 1.0)
    assert_parity(y, exact, lrn_definition(x.cpu(), size, 1.0, beta, 1.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("C", [16, 7])
def test_lrn_max_pool(runner, dtype, C):
    x = pixels(2, C, 7, 9, dtype, stride=C + 8, offset=8, device=runner.device)
    x[0, 2, 3, 4] = NAN
    y = pixels(2, C, 3, 4, dtype, fill=0, device=runner.device)
    lrn = problem("LrnProblem", dtype=dtype, C=C, size=5, alpha=1e-2, beta=0.75, k=1.0)
    pool = problem("Pool2dProblem", dtype=dtype, N=2, H=7, W=9, C=C, P=3, Q=4, kernel_h=3, kernel_w=3, stride_h=2,
                   stride_w=2, dilation_h=1, dilation_w=1, x_stride=C + 8, y_stride=C)  # fmt: skip
    runner.run(runner.cuda.lrn_max_pool, lrn, pool, read=[x], write=[y])
    exact = F.max_pool2d(lrn_definition(x.cpu().double(), 5, 1e-2, 0.75, 1.0), 3, 2)
    assert_parity(y, exact, F.max_pool2d(lrn_definition(x.cpu(), 5, 1e-2, 0.75, 1.0), 3, 2))


POOLS = [
    {"kernel": 3, "stride": 2},
    {"kernel": 3, "stride": 2, "pad": 1},
    {"kernel": (2, 3), "stride": (1, 2), "pad": (0, 1)},
    {"kernel": 3, "stride": 1, "pad": 1, "dilation": 2, "modes": ("max",)},
    {"kernel": 3, "stride": 2, "pad": 1, "ceil": True},
]


def two(value):
    return (value, value) if isinstance(value, int) else value


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("C", "stride", "offset"), CHANNELS[:3])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pool2d(runner, dtype, C, stride, offset, case):
    kernel, step, pad = two(case["kernel"]), two(case["stride"]), two(case.get("pad", 0))
    dilation, ceil = two(case.get("dilation", 1)), case.get("ceil", False)
    x = pixels(2, C, 8, 6, dtype, stride=stride, offset=offset, device=runner.device)
    x[1, 0, 2, 2], x[0, C - 1, 4, 4], x[0, 0, 0, 0] = NAN, -INF, INF
    options = {
        "max": [{}],
        "average": [{"count_include_pad": True}, {"count_include_pad": False}, {"divisor_override": 5}],
    }
    for mode in case.get("modes", ("max", "average")):
        for option in options[mode]:

            def pool(t):
                if mode == "max":  # noqa: B023
                    return F.max_pool2d(t, kernel, step, pad, dilation, ceil)
                return F.avg_pool2d(t, kernel, step, pad, ceil, **option)  # noqa: B023

            exact = pool(x.cpu().double())
            N, _, P, Q = exact.shape
            y = pixels(N, C, P, Q, dtype, stride=stride, offset=offset, fill=0, device=runner.device)
            pixel_stride = stride or C + offset
            p = problem("Pool2dProblem", dtype=dtype, mode=mode, N=2, H=8, W=6, C=C, P=P, Q=Q, kernel_h=kernel[0],
                        kernel_w=kernel[1], stride_h=step[0], stride_w=step[1], pad_h=pad[0], pad_w=pad[1],
                        dilation_h=dilation[0], dilation_w=dilation[1],
                        count_include_pad=option.get("count_include_pad", True),
                        divisor_override=option.get("divisor_override", 0), x_stride=pixel_stride,
                        y_stride=pixel_stride)  # fmt: skip
            runner.run(runner.cuda.pool2d, p, read=[x], write=[y])
            if mode == "max":
                assert_parity(y, exact)
            else:
                assert_parity(y, exact, pool(x.cpu()))
            assert surroundings_untouched(y)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("C", "stride", "offset"), CHANNELS)
@pytest.mark.parametrize(("H", "W", "P", "Q"), [(7, 7, 1, 1), (5, 8, 3, 3), (6, 6, 7, 2)])
def test_adaptive_avg_pool2d(runner, dtype, C, stride, offset, H, W, P, Q):
    x = pixels(2, C, H, W, dtype, stride=stride, offset=offset, device=runner.device)
    x[0, 0, 1, 1] = INF
    y = pixels(2, C, P, Q, dtype, stride=stride, offset=offset, fill=0, device=runner.device)
    p = problem("AdaptiveAvgPool2dProblem", dtype=dtype, N=2, H=H, W=W, C=C, P=P, Q=Q, x_stride=stride or C + offset,
                y_stride=stride or C + offset)  # fmt: skip
    runner.run(runner.cuda.adaptive_avg_pool2d, p, read=[x], write=[y])
    assert_parity(y, F.adaptive_avg_pool2d(x.cpu().double(), (P, Q)), F.adaptive_avg_pool2d(x.cpu(), (P, Q)))
    assert surroundings_untouched(y)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("C", "offset"), [(16, 0), (6, 5)])
@pytest.mark.parametrize("activation", activations.NAMES)
def test_subsample2d(runner, dtype, C, offset, activation):
    x = pixels(2, C, 6, 7, dtype, offset=offset, device=runner.device)
    coefficient, bias = (torch.randn(C, dtype=dtype, device=runner.device) for _ in range(2))
    y = pixels(2, C, 3, 3, dtype, fill=0, device=runner.device)
    p = problem("Subsample2dProblem", dtype=dtype, activation=activation, N=2, H=6, W=7, C=C, P=3, Q=3, kernel_size=2,
                x_stride=C + offset, y_stride=C)  # fmt: skip
    runner.run(runner.cuda.subsample2d, p, read=[x, coefficient, bias], write=[y])

    def definition(x, coefficient, bias):
        total = F.avg_pool2d(x, 2, 2, divisor_override=1)
        return activations.apply(activation, bias[:, None, None] + coefficient[:, None, None] * total)

    tensors = [t.cpu() for t in (x, coefficient, bias)]
    assert_parity(y, definition(*(t.double() for t in tensors)), definition(*tensors))


@pytest.mark.parametrize("element_size", [1, 2, 4, 8])
@pytest.mark.parametrize(("C", "stride", "offset"), [(16, 48, 16), (5, 9, 3)])
def test_copy_slice(runner, element_size, C, stride, offset):
    dtype = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[element_size]
    x = torch.randint(0, 127, (7, C), dtype=dtype, device=runner.device)
    wide = torch.full((7, stride), 127, dtype=dtype, device=runner.device)
    y = wide[:, offset : offset + C]
    p = problem("CopySliceProblem", element_size=element_size, pixels=7, C=C, x_stride=C, y_stride=stride)
    runner.run(runner.cuda.copy_slice, p, read=[x], write=[y])
    expected = torch.full_like(wide, 127)
    expected[:, offset : offset + C] = x
    assert torch.equal(wide, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("C", "offset"), [(16, 16), (5, 3)])
def test_add_relu(runner, dtype, C, offset):
    a = pixels(2, C, 3, 3, dtype, offset=offset, device=runner.device)
    b = pixels(2, C, 3, 3, dtype, seed=1, device=runner.device)
    a[0, 0, 0, 0], b[1, 2, 1, 1], a[0, 1, 2, 2] = NAN, INF, -INF
    y = pixels(2, C, 3, 3, dtype, offset=offset, fill=0, device=runner.device)
    p = problem("AddReluProblem", dtype=dtype, pixels=18, C=C, a_stride=C + offset, b_stride=C, y_stride=C + offset)
    runner.run(runner.cuda.add_relu, p, read=[a, b], write=[y])
    assert_parity(y, torch.relu(a.cpu().double() + b.cpu().double()), torch.relu(a.cpu() + b.cpu()))
    assert surroundings_untouched(y)


@pytest.mark.parametrize("size", [1000, 8192])
def test_add_relu_flat(runner, size):
    """One long row, as dense tensors of any shape are passed."""
    a, b = torch.randn(size, device=runner.device), torch.randn(size, device=runner.device)
    y = torch.empty_like(a)
    p = problem("AddReluProblem", dtype=a.dtype, pixels=1, C=size, a_stride=size, b_stride=size, y_stride=size)
    runner.run(runner.cuda.add_relu, p, read=[a, b], write=[y])
    assert torch.equal(y, torch.relu(a + b))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("N", "D", "M", "stride"), [(3, 84, 10, 84), (1, 96, 2, 104), (2, 1, 3, 5)])
def test_rbf(runner, dtype, N, D, M, stride):
    x = torch.full((N, stride), NAN, dtype=dtype, device=runner.device)[:, :D]
    x.copy_(torch.randn(N, D))
    centers = torch.randn(M, D).to(dtype).to(runner.device)
    y = torch.zeros(N, M, dtype=dtype, device=runner.device)
    p = problem("RbfProblem", dtype=dtype, N=N, D=D, M=M, x_stride=stride, y_stride=M)
    runner.run(runner.cuda.rbf, p, read=[x, centers], write=[y])

    def definition(x, centers):
        return ((x[:, None] - centers) ** 2).sum(-1)

    assert_parity(y, definition(x.cpu().double(), centers.cpu().double()), definition(x.cpu(), centers.cpu()))


def test_empty_tensors_launch_nothing(runner):
    for name, function, tensors in [
        ("LrnProblem", runner.cuda.lrn, 1),
        ("Pool2dProblem", runner.cuda.pool2d, 1),
        ("AdaptiveAvgPool2dProblem", runner.cuda.adaptive_avg_pool2d, 1),
        ("CopySliceProblem", runner.cuda.copy_slice, 1),
        ("AddReluProblem", runner.cuda.add_relu, 2),
        ("RbfProblem", runner.cuda.rbf, 2),
        ("Subsample2dProblem", runner.cuda.subsample2d, 3),
    ]:
        runner.run(function, problem(name), read=[None] * tensors, write=[None])


@pytest.mark.emulated
@pytest.mark.slow
def test_every_schedule(every_schedule):
    """The kernels that synchronise, under each order of threads."""
    test_adaptive_avg_pool2d(every_schedule, torch.float16, 24, 40, 8, 7, 7, 1, 1)
    test_rbf(every_schedule, torch.float32, 3, 84, 10, 84)


@pytest.mark.emulated
def test_errors_name_the_kernel_and_the_access():
    emulator = emulation.load()
    p = problem("AddReluProblem", dtype=torch.float32, pixels=4, C=4, a_stride=4, b_stride=4, y_stride=4)
    a, small = torch.zeros(4, 4), torch.zeros(3, 4)
    run = harness.Emulated(emulator=emulator).run
    with pytest.raises(RuntimeError, match=r"add_relu: .*global memory out of bounds: write of 16 bytes"):
        run(emulator.cuda.add_relu, p, read=[a, a], write=[small])
    with pytest.raises(NotImplementedError, match="copy_slice: elements of 3 bytes"):
        emulator.cuda.copy_slice(problem("CopySliceProblem", element_size=3, pixels=1, C=1), 0, 0)
