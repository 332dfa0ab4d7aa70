"""`python -m fastcnn verify` and the ledger, rehearsed on the CPU kernels: right ones pass, wrong ones do not."""

import dataclasses

import pytest
import torch

from fastcnn import ledger, ops
from fastcnn.dispatch import OPERATORS, SELECTORS
from fastcnn.verify import CASES, verify, verify_one

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
            return y * 1.001 if fault == "a little off" else y.index_fill(0, torch.tensor([0]), torch.nan)

        return run

    wrong = dataclasses.replace(right, prepare=prepare)
    outcome = verify_one(ops.add_relu, wrong, "float32", CPU)
    assert outcome.entry is None
    assert "2x19x9x7" in outcome.problem


def test_the_ledger_decides_and_keeps_the_newest(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "PATH", tmp_path / "ledger.json")
    monkeypatch.setattr(ledger, "USER_PATH", tmp_path / "none.json")
    old = ledger.Entry("rbf.cuda.rbf", "float16", "sm_90", "H", "2026-01-01", 1e-4)
    ledger.write(ledger.PATH, [old])
    ledger.write(ledger.PATH, [old._replace(date="2026-02-02", error=2e-4)])
    assert [entry.date for entry in ledger.entries()] == ["2026-02-02"]
    assert ledger.reason_against("rbf.cuda.rbf", "float16", "sm_90") is None
    for other in (("rbf.cuda.rbf", "float32", "sm_90"), ("rbf.cuda.rbf", "float16", "sm_80")):
        assert "not yet run on hardware" in ledger.reason_against(*other)
    assert "2026-02-02" in ledger.status("rbf.cuda.rbf")
    ledger.entries.cache_clear()
