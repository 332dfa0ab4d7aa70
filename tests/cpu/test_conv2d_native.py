"""Every native CPU convolution algorithm, under every instruction set, against float64."""

import platform
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastcnn import _C

ALGORITHMS = _C.cpu.conv2d_algorithms()
WINOGRAD = [name for name in ALGORITHMS if name.startswith("winograd")]
OF_BFLOAT16 = ("direct_amx", "direct_bf16")  # which take nothing else
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SENTINEL = 777.0  # exact in every dtype

ACTIVATIONS = {
    "none": lambda a: a,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scaled_tanh": lambda a: 1.7159 * torch.tanh(2 / 3 * a),
}


@dataclass(frozen=True)
class Case:
    N: int = 2
    H: int = 9
    W: int = 11
    C: int = 20
    K: int = 21
    R: int = 3
    S: int = 3
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    extra: tuple[int, int] = (0, 0)  # further padding below and to the right
    bias: bool = True
    residual: bool = False
    activation: str = "none"
    sliced: bool = False
    dtype: torch.dtype = torch.float32
    threads: int = 2


def channels_last(n: int, h: int, w: int, c: int, dtype: torch.dtype, sliced: bool, fill: float) -> Tensor:
    """(n, h, w, c) view; with `sliced` it is channels 3.. of a wider tensor that is filled with `fill`."""
    wide = torch.full((n, h, w, c + (8 if sliced else 0)), fill, dtype=dtype)
    return wide[..., 3 : 3 + c] if sliced else wide


class Run:
    """Inputs and expected output of a case; run(name) computes and checks the memory around the output."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        c = self.case = case
        dilated = [(k - 1) * d + 1 for k, d in zip((c.R, c.S), c.dilation, strict=True)]
        self.P, self.Q = (
            (size + 2 * pad + extra - kernel) // stride + 1
            for size, pad, extra, kernel, stride in zip((c.H, c.W), c.padding, c.extra, dilated, c.stride, strict=True)
        )
        self.x = channels_last(c.N, c.H, c.W, c.C, c.dtype, c.sliced, float("nan"))
        self.x.copy_(torch.randn(self.x.shape, generator=generator))
        scale = (c.C // c.groups * c.R * c.S) ** -0.5
        self.weight = torch.randn(c.K, c.C // c.groups, c.R, c.S, generator=generator) * scale
        self.bias = torch.randn(c.K, generator=generator) if c.bias else None
        self.residual = None
        if c.residual:
            self.residual = channels_last(c.N, self.P, self.Q, c.K, c.dtype, c.sliced, float("nan"))
            self.residual.copy_(torch.randn(self.residual.shape, generator=generator))

    def reference(self, dtype: torch.dtype) -> Tensor:
        c = self.case
        x = self.x.permute(0, 3, 1, 2).to(dtype)
        below, right = c.padding[0] + c.extra[0], c.padding[1] + c.extra[1]
        x = F.pad(x, (c.padding[1], right, c.padding[0], below))
        bias = None if self.bias is None else self.bias.to(dtype)
        y = F.conv2d(x, self.weight.to(dtype), bias, c.stride, 0, c.dilation, c.groups)
        y = y.permute(0, 2, 3, 1)
        if self.residual is not None:
            y = y + self.residual.to(dtype)
        return ACTIVATIONS[c.activation](y)

    def problem(self) -> object:
        c, p = self.case, _C.Conv2dProblem()
        p.dtype = getattr(_C.DType, str(c.dtype).removeprefix("torch."))
        p.activation = getattr(_C.Activation, c.activation)
        p.has_bias, p.has_residual = int(c.bias), int(c.residual)
        p.N, p.H, p.W, p.C, p.K, p.R, p.S, p.P, p.Q = c.N, c.H, c.W, c.C, c.K, c.R, c.S, self.P, self.Q
        p.stride_h, p.stride_w = c.stride
        p.pad_h, p.pad_w = c.padding
        p.dilation_h, p.dilation_w = c.dilation
        p.groups = c.groups
        p.x_stride = self.x.stride(2)
        p.y_stride = c.K + (8 if c.sliced else 0)
        p.residual_stride = 0 if self.residual is None else self.residual.stride(2)
        return p

    def run(self, name: str, max_pool: bool = False, form: str = "packed") -> Tensor:
        c = self.case
        conv = _C.cpu.Conv2d(self.problem(), name, max_pool)
        weight = self.weight
        if form == "channels_last":
            weight = weight.contiguous(memory_format=torch.channels_last)
        if form == "packed":
            weight = torch.full((conv.packed_bytes + 64,), 0x7F, dtype=torch.uint8)
            conv.pack(self.weight.data_ptr(), weight.data_ptr(), threads=c.threads)
            assert (weight[conv.packed_bytes :] == 0x7F).all(), "packing wrote beyond packed_bytes"
        P, Q = (self.P // 2, self.Q // 2) if max_pool else (self.P, self.Q)
        wide = torch.full((c.N, P, Q, c.K + (8 if c.sliced else 0)), SENTINEL, dtype=c.dtype)
        y = wide[..., 3 : 3 + c.K] if c.sliced else wide
        read_as = getattr(_C.cpu.WeightForm, form)
        conv.bound(c.threads, form=read_as)(self.x, weight, self.bias, self.residual, y)
        if c.sliced:
            assert (wide[..., :3] == SENTINEL).all(), "wrote before the channel slice"
            assert (wide[..., 3 + c.K :] == SENTINEL).all(), "wrote after the channel slice"
        return y


def relative_l2(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact).norm() / exact.norm().clamp_min(1e-30))


FORMS = ("packed", "contiguous", "channels_last")  # of weights


def check(case: Case, name: str) -> None:
    run = Run(case)
    exact = run.reference(torch.float64)
    eps = torch.finfo(case.dtype).eps
    scale = float(exact.abs().max()) if exact.numel() else 0.0
    theirs = float((run.reference(case.dtype).double() - exact).abs().max()) if exact.numel() else 0.0
    for form in FORMS:
        y = run.run(name, form=form)
        if name in WINOGRAD:
            bound = max(WINOGRAD_ERROR[name], eps)
            assert relative_l2(y, exact) <= bound, (name, form, case)
            continue
        error = float((y.double() - exact).abs().max()) if exact.numel() else 0.0
        assert error <= 2 * theirs + eps * max(scale, 1.0), (name, form, case)


# The bounds documented in conv2d.h.
WINOGRAD_ERROR = {"winograd_f2": 2e-6, "winograd_f4": 1e-5, "winograd_f6": 3e-5, "winograd5x5": 1e-5}

CASES = [
    Case(),
    Case(activation="relu", residual=True, sliced=True),
    Case(activation="sigmoid", bias=False, sliced=True),
    Case(activation="tanh", residual=True, bias=False),
    Case(activation="scaled_tanh", sliced=True),
    Case(C=1, K=6, R=5, S=5, padding=(0, 0)),
    Case(C=3, K=64, R=7, S=7, stride=(2, 2), padding=(3, 3), H=23, W=30, activation="relu"),
    Case(C=3, K=17, R=11, S=11, stride=(4, 4), padding=(2, 2), H=31, W=37),
    Case(C=3, K=40, sliced=True),
    Case(C=16, K=33, R=1, S=1, padding=(0, 0), residual=True, activation="relu", sliced=True),
    Case(C=70, K=130, R=1, S=1, padding=(0, 0), stride=(2, 2)),
    Case(C=70, K=65, R=1, S=1, padding=(1, 1), stride=(1, 2)),
    Case(C=33, K=48, R=3, S=3, stride=(2, 2), activation="relu"),
    Case(C=17, K=31, R=2, S=5, padding=(0, 2), stride=(1, 3), dilation=(3, 1)),
    Case(C=24, K=15, dilation=(2, 3), padding=(2, 3), extra=(1, 2)),
    Case(C=6, K=16, R=5, S=5, padding=(2, 2), H=27, W=26),
    Case(C=64, K=96, H=13, W=13, N=1, threads=1),
    Case(C=40, K=72, R=5, S=5, padding=(2, 2), activation="relu", residual=True, sliced=True),
    Case(C=24, K=36, groups=2),
    Case(C=24, K=36, groups=12, stride=(2, 1), activation="relu", residual=True, sliced=True),
    Case(C=104, K=104, groups=13, H=11, W=19, activation="relu", residual=True, sliced=True),
    Case(C=48, K=48, groups=12, H=13, W=20, stride=(2, 2), sliced=True),
    Case(C=80, K=80, groups=5, H=9, W=16, stride=(2, 2), activation="relu", sliced=True),
    Case(C=64, K=64, groups=2, H=16, W=15, activation="relu", residual=True, sliced=True),
    Case(C=40, K=32, groups=2, R=2, S=4, padding=(2, 3), dilation=(2, 1), stride=(1, 3), activation="tanh"),
    Case(C=24, K=48, groups=12, R=5, S=5, padding=(2, 2), sliced=True),
    Case(C=4, K=8, groups=4, dilation=(1, 2), activation="sigmoid", residual=True, sliced=True),
    Case(C=24, K=16, sliced=True),  # bfloat16 pixels of 48 bytes, 64 apart
    Case(C=64, K=64, groups=8, R=1, S=1, padding=(0, 0), stride=(2, 1)),
    Case(C=32, K=64, groups=4, N=1, H=1, W=1, sliced=True),
    Case(C=64, K=192, groups=2, N=1, H=15, W=14, R=5, S=5, padding=(2, 2), residual=True, sliced=True),
    Case(C=37, K=37, groups=37, activation="relu", sliced=True),
    Case(C=37, K=37, groups=37, stride=(2, 2), residual=True),
    Case(C=16, K=16, groups=16, R=5, S=5, padding=(2, 2), dilation=(1, 2)),
    Case(C=10, K=30, groups=10),
    Case(N=0),
    Case(N=1, H=1, W=1, C=5, K=3),
    Case(N=1, H=3, W=2, C=5, K=3, padding=(4, 5)),
    Case(N=1, H=7, W=7, C=512, K=100, activation="relu"),
    Case(C=12, K=12, groups=12, H=20, W=30, activation="relu"),
    Case(C=19, K=19, groups=19, H=20, W=40, stride=(2, 2)),
    Case(C=33, K=33, groups=33, H=14, W=30, R=5, S=5, padding=(2, 2), residual=True),
    Case(C=3, K=10, dilation=(2, 1), padding=(3, 0)),
    Case(C=1, K=1, R=1, S=1, padding=(0, 0)),
    Case(C=2, K=13, H=33, W=70, dilation=(2, 3), padding=(3, 1), extra=(0, 2), activation="tanh", sliced=True),
    Case(C=5, K=8, H=40, W=33, R=7, S=7, padding=(3, 9), stride=(2, 1), activation="relu", bias=False),
]


@pytest.fixture(params=_C.cpu.isas())
def isa(request: pytest.FixtureRequest):
    before = _C.cpu.isa()
    _C.cpu.set_isa(request.param)
    yield request.param
    _C.cpu.set_isa(before)


def capable(case: Case, name: str) -> bool:
    try:
        _C.cpu.Conv2d(Run(replace(case, N=0)).problem(), name)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", ALGORITHMS)
def test_against_float64(isa: str, name: str, dtype: torch.dtype) -> None:
    cases = [replace(case, dtype=dtype) for case in CASES if capable(replace(case, dtype=dtype), name)]
    if name == "direct":
        assert len(cases) == len(CASES), "direct takes every problem"
    else:
        assert cases or dtype != torch.float32 or name in OF_BFLOAT16, f"no case tests {name}"
    for case in cases:
        check(case, name)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in WINOGRAD])
def test_nan_and_infinity_go_where_they_belong(isa: str, name: str) -> None:
    for case in (
        Case(activation="relu"),
        Case(R=1, S=1, padding=(0, 0)),
        Case(C=3, R=7, S=7, stride=(2, 2), padding=(3, 3)),
        Case(C=21, K=21, groups=21),
        Case(C=48, K=48, groups=6, activation="relu"),
        Case(C=48, K=48, groups=3, stride=(2, 2)),
    ):
        if name in OF_BFLOAT16:
            case = replace(case, dtype=torch.bfloat16)
        if not capable(case, name):
            continue
        run = Run(case)
        run.x[0, 2, 3, 0] = float("nan")
        run.x[1, 4, 5, 1] = float("inf")
        exact, y = run.reference(torch.float64), run.run(name).double()
        assert torch.equal(y.isnan(), exact.isnan()), (name, case)
        assert torch.equal(y.isinf(), exact.isinf()), (name, case)
        finite = exact.isfinite()
        tolerance = max(1e-4, torch.finfo(case.dtype).eps)
        torch.testing.assert_close(y[finite], exact[finite], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", WINOGRAD)
def test_winograd_error_bound(name: str) -> None:
    """Many channels, and inputs that are all positive as after a ReLU: the hardest common case."""
    size = 5 if name == "winograd5x5" else 3
    run = Run(Case(N=1, H=14, W=14, C=512, K=64, R=size, S=size, padding=(size // 2,) * 2, bias=False))
    for _ in range(2):
        exact = run.reference(torch.float64)
        for form in FORMS:
            assert relative_l2(run.run(name, form=form), exact) <= WINOGRAD_ERROR[name]
        run.x.abs_()


# Many weights and few rows: these are packed by the tasks that multiply by them.
HEAVY = [
    Case(N=1, H=7, W=9, C=203, K=150, residual=True, activation="relu", sliced=True),
    Case(N=3, H=14, W=13, C=130, K=257, bias=False, threads=3),
    Case(N=1, H=9, W=9, C=96, K=288, groups=1, R=5, S=5, padding=(2, 2), activation="tanh"),
    Case(N=1, H=14, W=14, C=384, K=512, groups=2, activation="relu", sliced=True),
    Case(N=1, H=6, W=5, C=1000, K=16),
    Case(N=1, H=6, W=5, C=515, K=32, bias=False),
    Case(N=1, H=7, W=7, C=515, K=333, R=1, S=1, padding=(0, 0), residual=True, threads=4),
    Case(N=1, H=13, W=13, C=64, K=200, stride=(2, 2), activation="sigmoid"),
    Case(N=1, H=5, W=6, C=140, K=210, R=3, S=2, dilation=(2, 1), sliced=True),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_weights_packed_on_the_way(isa: str, dtype: torch.dtype) -> None:
    for case in HEAVY:
        case = replace(case, dtype=dtype)
        for name in ALGORITHMS:
            if capable(case, name):
                check(case, name)


def test_winograd_in_several_large_blocks() -> None:
    """More tiles than the shared buffer of transformed inputs holds."""
    case = Case(N=2, H=31, W=31, C=512, K=40, activation="relu", residual=True)
    run = Run(case)
    assert relative_l2(run.run("winograd_f4"), run.reference(torch.float64)) <= WINOGRAD_ERROR["winograd_f4"]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", WINOGRAD)
def test_winograd_and_max_pool(isa: str, name: str, dtype: torch.dtype) -> None:
    """Bit for bit the pool of what the algorithm writes without it, NaN and infinity included."""
    size = 5 if name == "winograd5x5" else 3
    for case in (
        Case(activation="relu"),
        Case(H=9, W=11, K=64, sliced=True),
        Case(H=8, W=6, K=37, padding=(0, 1), bias=False, activation="relu", sliced=True),
        Case(H=30, W=29, C=130, K=48, N=1, activation="relu"),
        Case(C=24, K=36, groups=2),
        Case(N=1, H=6, W=7, padding=(0, 0)),
    ):
        run = Run(replace(case, R=size, S=size, dtype=dtype))
        if run.x.shape[0] == 2:
            run.x[0, 2, 3, 0] = float("nan")
            run.x[1, 4, 5, 1] = float("inf")
        for form in FORMS:
            expected = F.max_pool2d(run.run(name, form=form).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            pooled = run.run(name, max_pool=True, form=form)
            torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)


def test_only_winograd_takes_a_max_pool() -> None:
    with pytest.raises(ValueError, match="direct: takes no max-pool behind it, only Winograd algorithms do"):
        _C.cpu.Conv2d(Run(Case()).problem(), "direct", max_pool=True)
    with pytest.raises(ValueError, match="winograd_f4: takes no max-pool behind a residual"):
        _C.cpu.Conv2d(Run(Case(residual=True)).problem(), "winograd_f4", max_pool=True)
    with pytest.raises(ValueError, match="behind an activation that does not keep order"):
        _C.cpu.Conv2d(Run(Case(activation="silu")).problem(), "winograd_f4", max_pool=True)


@pytest.fixture
def restore_tolerance():
    before = _C.cpu.winograd_tolerance()
    yield
    _C.cpu.set_winograd_tolerance(before)


def test_tolerance_decides_which_winograd_may_be_chosen(restore_tolerance: None) -> None:
    problem = Run(Case(N=1, H=56, W=56, C=64, K=64)).problem()
    problem5 = Run(Case(N=1, H=27, W=27, C=64, K=192, R=5, S=5, padding=(2, 2))).problem()

    def chosen(problem: object) -> str:
        return next(name for name in ALGORITHMS if not _C.cpu.conv2d_reason(name, problem, 2))

    assert "may reach 3e-05, the tolerance is 1e-05" in _C.cpu.conv2d_reason("winograd_f6", problem, 2)
    assert chosen(problem) == "winograd_f4"
    assert chosen(problem5) == "winograd5x5"
    _C.cpu.set_winograd_tolerance(1e-4)
    assert "may reach" not in _C.cpu.conv2d_reason("winograd_f6", problem, 2)
    _C.cpu.set_winograd_tolerance(2e-6)
    assert chosen(problem) == "winograd_f2"
    assert chosen(problem5) == "direct"
    _C.cpu.set_winograd_tolerance(0)
    assert chosen(problem) == "direct"
    with pytest.raises(ValueError, match="must be at least 0"):
        _C.cpu.set_winograd_tolerance(-1)


def test_rules_name_the_faster_algorithm() -> None:
    few_tiles = Run(Case(N=1, H=7, W=7, C=512, K=512)).problem()
    assert ", winograd_f2 at" in _C.cpu.conv2d_reason("winograd_f4", few_tiles, 2)
    tiny = Run(Case(N=1, H=4, W=4, C=8, K=8)).problem()
    assert "too small" in _C.cpu.conv2d_reason("winograd_f4", tiny, 2)
    grouped = Run(Case(N=1, H=13, W=13, C=384, K=384, groups=2)).problem()
    assert _C.cpu.conv2d_reason("winograd_f4", grouped, 2) == ""
    narrow = Run(Case(N=1, H=28, W=28, C=256, K=256, groups=32)).problem()
    assert _C.cpu.conv2d_reason("narrow_groups", narrow, 2) == ""
    assert "8 channels a group are too few" in _C.cpu.conv2d_reason("winograd_f4", narrow, 2)
    assert "192 channels a group are enough" in _C.cpu.conv2d_reason("narrow_groups", grouped, 2)
    strided = Run(Case(stride=(2, 2))).problem()
    assert _C.cpu.conv2d_reason("winograd_f4", strided, 2) == "winograd_f4: needs stride 1"


def test_microkernels_keep_their_accumulators_in_registers() -> None:
    """The innermost loop of each microkernel touches no vector on the stack: GCC readily spills them all."""
    objdump = shutil.which("objdump")
    if objdump is None or platform.machine() != "x86_64":
        pytest.skip("needs objdump and x86-64")
    command = [objdump, "-dC", "--no-show-raw-insn", _C.__file__]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kernels: dict[str, list[tuple[int, str]]] = {}
    function = ""
    for line in listing.splitlines():
        if label := re.match(r"^[0-9a-f]+ <(.*)>:$", line):
            function = line if re.search(r"(avx2|avx512)::.*gemm_tile<6, \d, float, float>", label[1]) else ""
        elif function and (instruction := re.match(r"^\s+([0-9a-f]+):\s+(.*)$", line)):
            kernels.setdefault(function, []).append((int(instruction[1], 16), instruction[2]))
    assert len(kernels) >= 6, f"stripped, or renamed: {list(kernels)}"  # each in several objects
    for name, code in kernels.items():
        loops = []
        for address, text in code:
            if (jump := re.match(r"j\w+\s+([0-9a-f]+)", text)) and int(jump[1], 16) <= address:
                body = [t for a, t in code if int(jump[1], 16) <= a <= address]
                if any("fmadd" in t for t in body):
                    loops.append(body)
        inner = min(loops, key=len)
        vectors = int(re.search(r"<6, (\d)", name)[1])
        assert sum("fmadd" in text for text in inner) % (6 * vectors) == 0
        spilled = [text for text in inner if re.search(r"%[yz]mm", text) and re.search(r"%r[sb]p", text)]
        assert not spilled, (name, spilled)


def test_bfloat16_products_where_the_processor_has_them() -> None:
    problem = Run(Case(R=1, S=1, padding=(0, 0), dtype=torch.bfloat16)).problem()
    before = _C.cpu.isa()
    try:
        _C.cpu.set_isa("baseline")
        assert "needs AVX512-BF16" in _C.cpu.conv2d_reason("direct_bf16", problem, 2)
    finally:
        _C.cpu.set_isa(before)
    flags = Path("/proc/cpuinfo")
    if before in ("amx", "avx512") and flags.exists() and "avx512_bf16" in flags.read_text("utf-8"):
        assert _C.cpu.conv2d_reason("direct_bf16", problem, 2) == ""
        assert any(capable(replace(case, dtype=torch.bfloat16), "direct_bf16") for case in CASES)
    odd = Run(Case(C=10, K=10, groups=2, dtype=torch.bfloat16)).problem()
    assert _C.cpu.conv2d_reason("direct_bf16", odd, 2) != ""
    single = Run(Case()).problem()
    assert _C.cpu.conv2d_reason("direct_bf16", single, 2) == "direct_bf16: needs bfloat16 input"


def test_choice_always_exists() -> None:
    for dtype in DTYPES:
        for case in CASES:
            problem = Run(replace(case, dtype=dtype)).problem()
            reasons = [_C.cpu.conv2d_reason(name, problem, 2) for name in ALGORITHMS]
            assert "" in reasons, (case, reasons)
            for name, reason in zip(ALGORITHMS, reasons, strict=True):
                assert not reason or reason.startswith(f"{name}: "), reason


def test_several_threads_at_once() -> None:
    run = Run(Case(C=32, K=64, H=28, W=28))
    expected = run.run("direct")
    results: list[Tensor] = []

    def work() -> None:
        for _ in range(10):
            results.append(run.run("direct"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 40
    assert all(torch.equal(y, expected) for y in results)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("groups", 3, "groups is 3, must divide C = 20 and K = 21"),
        ("stride_w", 0, "stride_w is 0, must be at least 1"),
        ("x_stride", 19, "x_stride is 19, must be at least 20"),
        ("N", -1, "N is -1, must be at least 0"),
    ],
)
def test_bad_problems_are_refused(field: str, value: int, message: str) -> None:
    problem = Run(Case()).problem()
    setattr(problem, field, value)
    assert message in _C.cpu.conv2d_reason("direct", problem, 1)
    with pytest.raises(ValueError, match=message):
        _C.cpu.Conv2d(problem, "direct")


def test_unknown_algorithm_and_missing_address_are_refused() -> None:
    problem = Run(Case()).problem()
    with pytest.raises(ValueError, match="unknown algorithm 'magic'; known are"):
        _C.cpu.conv2d_reason("magic", problem, 1)
    conv = _C.cpu.Conv2d(problem, "direct")
    with pytest.raises(ValueError, match="the problem has a bias, its address is 0"):
        conv.bound(1)(64, 64, None, None, 64)
    with pytest.raises(ValueError, match="the address of x, weight or y is 0"):
        conv.bound(1)(0, 64, 64, None, 64)
