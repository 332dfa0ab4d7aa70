"""`python -m fastcnn verify` and the ledger, rehearsed on the CPU kernels: right ones pass, wrong ones do not."""

import dataclasses

import pytest
import torch

from fastcnn import ops
from fastcnn.backends import cuda as cuda_backend
from fastcnn.core import ledger
from fastcnn.core.backend import use_backend
from fastcnn.core.operator import OPERATORS
from fastcnn.core.selector import SELECTORS
from fastcnn.workbench.verify.kernels import CASES, verify, verify_one

CPU = torch.device("cpu")


def test_every_operator_has_cases():
    assert set(CASES) == set(SELECTORS)


def test_right_kernels_pass():
    outcomes = list(verify(CPU, ("cpu",)))
    for outcome in outcomes:
        if "winograd" in outcome.kernel:
            continue  # has a bound of its own, above twice PyTorch's error
        # Convolution kernels leave problems to one another by rule.
        assert outcome.entry is not None or outcome.problem.startswith("takes none of the cases"), outcome
    assert {o.kernel.split(".")[0] for o in outcomes if o.entry} == {*OPERATORS, "lrn_max_pool2d"}


@pytest.mark.parametrize("fault", ["a little off", "nan", "raises"])
def test_a_wrong_kernel_fails(fault):
    (right, *_) = (c for c in ops.add_relu.candidates if c.backend == "cpu")

    def prepare(problem):
        runner = right.prepare(problem)

        def run(*tensors):
            if fault == "raises":
                raise RuntimeError("a failing launch")
            y = runner(*tensors)
            return y * (1 + 1e-5) if fault == "a little off" else y.index_fill(0, torch.tensor([0]), torch.nan)

        return run

    wrong = dataclasses.replace(right, prepare=prepare)
    outcome = verify_one(ops.add_relu, wrong, "float32", CPU)
    assert outcome.entry is None
    assert "2x19x9x7" in outcome.problem


def test_a_kernel_that_takes_no_case_is_not_verified():
    refusing = dataclasses.replace(ops.add_relu.candidates[0], supports=lambda problem: "not today")
    outcome = verify_one(ops.add_relu, refusing, "float32", CPU)
    assert outcome.entry is None
    assert outcome.problem == "takes none of the cases: not today"


def test_the_ledger_decides_and_keeps_the_newest(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "PATH", tmp_path / "ledger.json")
    monkeypatch.setattr(ledger, "USER_PATH", tmp_path / "none.json")
    old = ledger.Entry("rbf.cuda.rbf", "float16", "sm_90", "H", "2026-01-01", 1e-4)
    ledger.write(ledger.PATH, [old])
    ledger.write(ledger.PATH, [old._replace(date="2026-02-02", error=2e-4)])
    assert [entry.date for entry in ledger.entries()] == ["2026-02-02"]
    assert ledger.reason_against("rbf.cuda.rbf", "float16", "sm_90") is None
    others = [("rbf.cuda.rbf", "float32", "sm_90"), ("rbf.cuda.rbf", "float16", "sm_80")]
    others.append(("add_relu.cuda.add_relu", "float16", "sm_90"))
    for other in others:
        assert "not yet run on hardware" in ledger.reason_against(*other)
    assert "2026-02-02" in ledger.status("rbf.cuda.rbf")
    ledger.write(ledger.USER_PATH, [old._replace(architecture="sm_80")])
    assert [ledger.reason_against(*other) is None for other in others] == [False, True, False]
    ledger.entries.cache_clear()


def test_an_unverified_cuda_kernel_is_not_chosen_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "PATH", tmp_path / "ledger.json")
    monkeypatch.setattr(ledger, "USER_PATH", tmp_path / "none.json")
    monkeypatch.setattr(cuda_backend, "built", lambda: True)
    monkeypatch.setattr(cuda_backend, "_runs_on", lambda capability: True)
    monkeypatch.setattr(cuda_backend, "device_of", lambda device: cuda_backend.Device("H", (9, 0), 132, 227 << 10))
    ledger.entries.cache_clear()
    x, kernel = torch.randn(1, 4, 2, 2), "add_relu.cuda.add_relu"
    problem = ops.add_relu.infer((x, x, None), ())._replace(device=torch.device("cuda"))
    assert cuda_backend.reason_against(kernel, problem) == f"not yet run on hardware: {kernel} in float32 on sm_90"
    with use_backend("cuda"):
        assert cuda_backend.reason_against(kernel, problem) is None
    ledger.write(ledger.PATH, [ledger.Entry(kernel, "float32", "sm_90", "H", "2026-01-01", 1e-7)])
    assert cuda_backend.reason_against(kernel, problem) is None
    assert "float16" in cuda_backend.reason_against(kernel, problem._replace(dtype=torch.float16))
    ledger.entries.cache_clear()
