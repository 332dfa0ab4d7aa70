"""`python -m fastcnn verify` with the emulator as its GPU: right kernels pass, each seeded fault is caught and recorded
and harms no other; what is entered decides what is chosen."""

import sys
import warnings
from pathlib import Path

import pytest
import torch

from fastcnn import functional, ops
from fastcnn.backends import cuda as cuda_backend
from fastcnn.core import ledger
from fastcnn.core.backend import use_backend
from fastcnn.core.operator import OPERATORS
from fastcnn.core.selector import SELECTORS
from fastcnn.workbench.verify import judge, worker
from fastcnn.workbench.verify import kernels as verify
from fastcnn.workbench.verify.pool import Lost, Worker

CPU = torch.device("cpu")
EMULATED = (sys.executable, str(Path(__file__).parent / "cuda" / "emulated_worker.py"))


class OnTheCpu(worker.Setting):
    """The CPU kernels, in this process."""

    clock = "cpu"

    def synchronise(self):
        pass


def run(tmp_path, only, *fault, **options):
    lines = []
    options = {"backends": ("cuda",), "jobs": 1, "races": False, "seconds": 60.0} | options
    report = verify.verify(
        tmp_path / "ledger.json", verify.Options(only=only, worker=(*EMULATED, *fault), **options), lines.append
    )
    return report, ledger.read(tmp_path / "ledger.json"), lines


# ---- cases and judge ------------------------------------------------------------------------------------


def test_every_operator_has_cases_and_races():
    assert [name for name, selector in SELECTORS.items() if not (selector.cases and selector.races)] == []


def test_every_race_is_of_a_kind_of_its_own():
    for name, selector in SELECTORS.items():
        kinds = []
        for case in selector.races:
            tensors = [None if shape is None else torch.empty(shape, device="meta") for shape in case.shapes]
            kinds.append(ledger.kind(selector.infer((*tensors, None), selector.normalise(tensors, case.params))))
        assert len(set(kinds)) == len(kinds), kinds
        expected = {"conv2d": 27, "conv2d_max_pool2d": 3}.get(name, 2)
        assert len(kinds) == expected, (name, kinds)


def test_right_kernels_pass_on_the_cpu():
    ran = set()
    for operator, candidate, dtype in worker.kernels(("cpu",)):
        if "winograd" in candidate.name or dtype != "float32":
            continue  # Winograd has a bound of its own, above twice PyTorch's error
        for answer in worker.correctness(OnTheCpu(CPU), worker.kernel_name(operator, candidate), dtype, []):
            if "plan" in answer:
                assert answer["failed"] == "", answer
                ran.add(operator.name)
    assert ran == {*OPERATORS, "lrn_max_pool2d"}


def result_of(shape=(2, 32, 20, 20), dtype=torch.float16):
    exact = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return exact.to(dtype), exact


@pytest.mark.parametrize("tf32", [False, True])
def test_a_rounded_result_is_right(tf32):
    y, exact = result_of(dtype=torch.float32 if tf32 else torch.float16)
    assert judge.verdict(y, exact, y, tf32) == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("wrong", [1, 97])
def test_a_few_wrong_values_in_many_are_found(wrong, dtype):
    """A bound on the norm let 97 wholly wrong bfloat16 values among a million pass."""
    y, exact = result_of((8, 64, 56, 56), dtype)
    theirs = y.clone()
    y.view(-1)[:wrong] = 100
    assert judge.verdict(y, exact, theirs, False).startswith(f"{wrong} of")


def test_values_cut_off_to_tf32_pass_only_where_tf32_is_allowed():
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    cut = (x.view(torch.int32) & ~0x1FFF).view(torch.float32)
    weight = torch.randn(256, 64, generator=torch.Generator().manual_seed(1))
    exact, theirs = x.double() @ weight.double(), x @ weight
    assert judge.verdict(cut @ weight, exact, theirs, True) == ""
    assert "values are wrong" in judge.verdict(cut @ weight, exact, theirs, False)


def test_nan_in_the_wrong_place_and_a_wrong_shape_are_found():
    y, exact = result_of()
    theirs = y.clone()
    y[0, 0, 0, 0] = torch.nan
    assert "1 NaN" in judge.verdict(y, exact, theirs, False)
    assert "shape" in judge.verdict(y[:1], exact, theirs, False)


@pytest.mark.parametrize("sliced", [False, True])
def test_guards_notice_a_write_on_either_side(sliced):
    for where in (0, judge.GUARD - 1, -judge.GUARD, -1):
        found = judge.guarded((2, 8, 3, 3), torch.float16, CPU, sliced)
        assert found.intact()
        assert found.tensor.data_ptr() % 16 == 0
        found.tensor.zero_()
        assert found.intact()
        found.buffer[where] = 0
        assert not found.intact()


# ---- the run, on the emulator ------------------------------------------------------------------------------


@pytest.mark.emulated
def test_a_run_enters_what_is_right_and_goes_on_where_it_stopped(tmp_path):
    report, found, lines = run(tmp_path, "add_relu.", races=True)
    assert not report.failed
    assert {(e.kernel, e.dtype, e.failed) for e in found.entries} == {
        ("add_relu.cuda.add_relu", dtype, "") for dtype in ("float32", "float16", "bfloat16")
    }
    assert {e.architecture for e in found.entries} == {"emulated"}
    assert {(r.dtype, r.kind) for r in found.races} == {(d, "small") for d in ("float32", "float16", "bfloat16")}
    assert all(r.microseconds > r.pytorch_microseconds for r in found.races)  # an emulator wins none
    assert not report.won
    again, after, lines = run(tmp_path, "add_relu.", races=True)
    assert (again.verified, again.races) == (0, [])
    assert after == found
    assert "1 known" in lines[0]


FAULTS = {
    "wrong tile": "values are wrong",
    "one wrong value": "1 of",
    "nan left": "NaN",
    "writes beside": "beside the output was overwritten",
    "changes its input": "an input of shape",
    "hang": "no answer within",
    "crash": "died with signal 9",
    "wild pointer": "died with signal 11",
    "illegal address": "illegal memory access",
}


@pytest.mark.emulated
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_recorded_and_harms_no_other(tmp_path, fault):
    kernel, plan = "conv2d.cuda.conv2d_sm80", "64x64"
    old = ledger.Entry(kernel, plan, "float16", "emulated", "the emulator", "", "", "older", "2026-01-01", 1e-4)
    ledger.write(tmp_path / "ledger.json", [old])
    seconds = 10.0 if fault == "hang" else 60.0
    report, found, _ = run(tmp_path, "conv2d.cuda.conv2d_sm80", kernel, plan, fault, seconds=seconds)
    mine = {(e.kernel, e.plan, e.dtype): e for e in found.entries}
    dtypes = ("float32", "tf32", "float16", "bfloat16")
    for dtype in dtypes:
        assert FAULTS[fault] in mine[kernel, plan, dtype].failed, mine[kernel, plan, dtype]
    others = [e for e in found.entries if (e.kernel, e.plan) != (kernel, plan)]
    assert not [e for e in others if e.failed]
    assert {(kernel, "128x128", "float16"), (kernel, "64x64/split", "float32"),
            ("conv2d.cuda.conv2d_sm80_gather", "64x64", "tf32")} <= set(mine)  # fmt: skip
    assert len(report.failed) == len(dtypes)


@pytest.mark.emulated
@pytest.mark.parametrize(
    "fault", ["one wrong value", *(pytest.param(f, marks=pytest.mark.slow) for f in ("crash", "illegal address"))]
)
def test_a_fault_in_a_small_kernel(tmp_path, fault):
    _, found, lines = run(tmp_path, "max_pool2d.cuda.pool2d", "max_pool2d.cuda.pool2d", "", fault)
    assert {(e.dtype, FAULTS[fault] in e.failed) for e in found.entries} == {
        ("float32", True), ("float16", True), ("bfloat16", True)
    }  # fmt: skip
    assert sum(line.startswith("FAILED") for line in lines) == 3


@pytest.mark.emulated
@pytest.mark.slow
def test_each_plan_of_each_cuda_kernel_is_verified(tmp_path):
    """All that selection can take on such a device: every tile of sm80, whole and split, and every width of sm90."""
    report, found, _ = run(tmp_path, "conv2d.cuda", races=False)
    assert not report.failed
    plans = {(e.kernel.split(".")[2], e.dtype, e.plan) for e in found.entries}
    widths = (32, 48, 64, 96, 112, 128, 144, 160, 192, 208, 224, 256)
    tiles = ("128x128", "128x64", "64x64", "128x32")
    expected = {("conv2d_sm90", d, f"128x{n}") for d in ("float16", "bfloat16") for n in widths}
    expected |= {("conv2d_sm90", "tf32", f"128x{n}") for n in (32, 64, 96, 128, 192)}
    expected |= {("conv2d_sm90_resident", d, "128x64") for d in ("float16", "bfloat16")}
    wide = ("float16", "bfloat16", "tf32")
    expected |= {("conv2d_sm80", d, t + s) for d in wide for t in tiles for s in ("", "/split")}
    expected |= {("conv2d_sm80", "float32", "64x64" + s) for s in ("", "/split")}
    expected |= {("conv2d_sm80_gather", d, "64x64" + s) for d in worker.DTYPES for s in ("", "/split")}
    assert expected <= plans, expected - plans


def test_a_worker_that_does_not_start_says_why():
    with pytest.raises(Lost, match="died with exit code 1: no such module"):
        Worker((sys.executable, "-c", "raise SystemExit('no such module')")).start()


# ---- the ledger ----------------------------------------------------------------------------------------


@pytest.fixture
def ledgers(tmp_path, monkeypatch):
    """An empty ledger of the package and an empty one of the user's."""
    monkeypatch.setattr(ledger, "PATH", tmp_path / "package.json")
    monkeypatch.setattr(ledger, "USER_PATH", tmp_path / "user" / "ledger.json")
    monkeypatch.setattr(ledger, "source", lambda backend: "abc")
    ledger.forget()
    yield ledger
    ledger.forget()


def entry(kernel="rbf.cuda.rbf", dtype="float16", **fields):
    given = {"plan": "", "architecture": "sm_90", "device": "H", "driver": "1", "version": "1", "source": "abc",
             "date": "2026-01-01", "error": 1e-4}  # fmt: skip
    return ledger.Entry(kernel=kernel, dtype=dtype, **given | fields)


def race(kernel, ours, theirs, dtype="float32", kind="small"):
    return ledger.Race(kernel, dtype, "H", kind, ours, theirs, "", "", "abc", "2026-01-01")


def test_the_ledger_keeps_the_newest_and_the_user_overrules(ledgers):
    ledger.write(ledger.PATH, [entry()])
    ledger.write(ledger.PATH, [entry(date="2026-02-02")])
    assert [e.date for e in ledger.entries()] == ["2026-02-02"]
    assert ledger.reason_against("rbf.cuda.rbf", "float16", "sm_90") is None
    for other in (("rbf.cuda.rbf", "float32", "sm_90"), ("rbf.cuda.rbf", "float16", "sm_80"),
                  ("add_relu.cuda.add_relu", "float16", "sm_90")):  # fmt: skip
        assert "not yet run on hardware" in ledger.reason_against(*other)
    ledger.write(ledger.USER_PATH, [entry(failed="3 of 4 values are wrong")])
    assert "failed when it was verified: 3 of 4" in ledger.reason_against("rbf.cuda.rbf", "float16", "sm_90")
    assert "FAILED: 3 of 4" in ledger.status("rbf.cuda.rbf")


def test_an_entry_speaks_for_its_source_and_its_plan_alone(ledgers):
    ledger.write(ledger.USER_PATH, [entry(plan="64x64"), entry(plan="128x64", source="old")])
    assert ledger.reason_against("rbf.cuda.rbf", "float16", "sm_90", "64x64") is None
    assert "source has changed" in ledger.reason_against("rbf.cuda.rbf", "float16", "sm_90", "128x64")
    assert "not yet run" in ledger.reason_against("rbf.cuda.rbf", "float16", "sm_90", "128x32")
    assert ledger.reason_against("rbf.cuda.rbf", "float16", "sm_90") is None


def test_pytorch_stays_where_it_wins(ledgers):
    ledger.write(ledger.USER_PATH, races=[race("a.cuda.a", 10.0, 13.0), race("b.cuda.b", 13.0, 10.0)])
    assert ledger.reason_against_race("a.cuda.a", "float32", "H", "small") is None
    assert ledger.reason_against_race("b.cuda.b", "float32", "H", "small") == "PyTorch, 1.30 times as fast here (small)"
    assert "never timed" in ledger.reason_against_race("a.cuda.a", "float32", "H", "large")
    assert "never timed" in ledger.reason_against_race("a.cuda.a", "float32", "H100 PCIe", "small")


def test_a_broken_ledger_is_reported_and_costs_nothing_else(ledgers):
    ledger.PATH.write_text("{")
    with pytest.raises(ValueError, match=r"package.json: not a ledger .*; remove it"):
        ledger.read(ledger.PATH)
    with pytest.warns(UserWarning, match="not a ledger"):
        assert ledger.entries() == ()
    ledger.PATH.write_text('{"entries": []}')
    with pytest.raises(ValueError, match="not a ledger"):
        ledger.read(ledger.PATH)


@pytest.fixture
def hopper(ledgers, monkeypatch):
    """The CUDA kernels are built and a Hopper GPU is there, for those who only ask."""
    monkeypatch.setattr(cuda_backend, "built", lambda: True)
    monkeypatch.setattr(cuda_backend, "_runs_on", lambda capability: True)
    monkeypatch.setattr(cuda_backend, "device_of", lambda device: cuda_backend.Device("H", (9, 0), 132, 227 << 10))


def add_relu_problem(size=2):
    x = torch.empty(1, 4, size, size)
    return ops.add_relu.infer((x, x, None), ())._replace(device=torch.device("cuda"))


@pytest.mark.filterwarnings("ignore:fastcnn. no kernel is verified")
def test_what_is_not_verified_or_does_not_win_is_not_chosen_by_default(hopper):
    kernel, problem = "add_relu.cuda.add_relu", add_relu_problem()
    assert cuda_backend.reason_against(kernel, problem) == f"not yet run on hardware: {kernel} in float32 on sm_90"
    with use_backend("cuda"):
        assert cuda_backend.reason_against(kernel, problem) is None
    ledger.write(ledger.PATH, [entry(kernel, "float32")])
    assert "never timed against PyTorch" in cuda_backend.reason_against(kernel, problem)
    ledger.write(ledger.USER_PATH, races=[race(kernel, 1.0, 2.0), race(kernel, 2.0, 1.0, kind="large")])
    assert cuda_backend.reason_against(kernel, problem) is None
    assert "PyTorch, 2.00 times" in cuda_backend.reason_against(kernel, add_relu_problem(1024))
    assert "float16" in cuda_backend.reason_against(kernel, problem._replace(dtype=torch.float16))


def test_tf32_is_asked_for_as_it_was_entered(hopper, monkeypatch):
    """Once it was entered as "float32" and asked for as "tf32": nothing was ever found."""
    x, weight = torch.empty(1, 8, 9, 9), torch.empty(8, 8, 3, 3)
    problem = ops.conv2d.infer((x, weight, None, None, None), ((1, 1), (1, 1, 1, 1), (1, 1), 1, None))
    problem = problem._replace(device=torch.device("cuda"))
    kernel, dtype = "conv2d.cuda.conv2d_sm80", next(d for _, c, d in worker.kernels(("cuda",)) if d == "tf32")
    ledger.write(ledger.PATH, [entry(kernel, dtype)], [race(kernel, 1.0, 2.0, dtype, ledger.kind(problem))])
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert cuda_backend.reason_against(kernel, problem, products="conv") is None
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert "float32" in cuda_backend.reason_against(kernel, problem, products="conv")


def test_the_first_use_of_a_gpu_without_entries_says_what_to_do_once(hopper):
    ledger.hint.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            cuda_backend.reason_against("add_relu.cuda.add_relu", add_relu_problem())
    assert [str(w.message) for w in caught] == [
        'fastcnn: no kernel is verified on this H; "python -m fastcnn verify" takes about 5 minutes'
    ]
    ledger.hint.cache_clear()


def test_nothing_is_said_to_those_without_a_gpu():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functional.add_relu(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3))
