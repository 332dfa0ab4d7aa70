"""Nothing is timed before its result was checked."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fastcnn
from fastcnn.workbench.report import contenders, measure, peers, timing
from fastcnn.workbench.report.cases import TINY, Case
from fastcnn.workbench.report.contenders import CONTENDERS, Contender
from fastcnn.workbench.report.measure import Measurement, WrongResult, relative_error
from fastcnn.workbench.report.peers import Missing

from .made_up import CEILINGS

ROOT = Path(__file__).resolve().parents[2]
SHORT = timing.Effort(seconds=0.01, blocks=2, least_samples=4, pause=0.0, warm_up=0.0)
CONV = Case("op", "conv2d", "tiny conv2d", batch=3, call=TINY[3])


@pytest.fixture(autouse=True)
def _reference():
    with fastcnn.use_backend("reference"):
        yield


def run(names, case=CONV):
    return measure.measure(case, names, CEILINGS, SHORT)


def test_a_right_result_is_timed():
    found = run(["fastcnn", "eager"])
    assert {type(outcome) for outcome in found.values()} == {Measurement}
    row = found["fastcnn"].row()
    facts = row["extra_info"]
    assert facts["error"] < 1e-6
    assert facts["kernels"] == ["reference.pytorch"] or facts["kernels"][0].startswith("reference.")
    assert facts["flops"] == 2 * 3 * 8 * 8 * 9 * 16
    assert facts["of_floor"] == pytest.approx(facts["floor"] / row["stats"]["median"])
    assert set(facts["quantiles"]) == {"p10", "p25", "p50", "p75", "p90"}
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0] or facts["versions"]["torch"]
    assert row["stats"]["rounds"] == len(found["fastcnn"].samples.seconds) >= 4


@pytest.mark.parametrize("spoil", ["scaled", "one_element", "nan", "shape"])
def test_a_wrong_result_is_not_timed(monkeypatch, spoil):
    calls = []

    def prepare(workload):
        def wrong():
            y = workload.plain(*workload.inputs.values()).clone()
            calls.append(spoil)
            if spoil == "scaled":
                return y * 1.001
            if spoil == "nan":
                y[0, 0, 0, 0] = float("nan")
            elif spoil == "one_element":
                y[-1, -1, -1, -1] += 1
            else:
                return y[:, :-1]
            return y

        return wrong

    monkeypatch.setitem(CONTENDERS, "eager", Contender("eager", prepare, ("op",)))
    found = run(["fastcnn", "eager"])
    assert isinstance(found["fastcnn"], Measurement)
    assert isinstance(found["eager"], WrongResult)
    assert "not timed" in str(found["eager"])
    assert len(calls) == 1  # the check alone


def test_every_contender_is_timed_by_its_own_call_and_has_its_own_error(monkeypatch):
    calls = dict.fromkeys(("fastcnn", "eager"), 0)

    def prepare(name, factor):
        def made(workload):
            def run():
                calls[name] += 1
                return workload.plain(*workload.inputs.values()) * factor

            return run

        return made

    for name, factor in (("fastcnn", 1 + 2e-5), ("eager", 1.0)):
        monkeypatch.setitem(CONTENDERS, name, Contender(name, prepare(name, factor), ("op",)))
    found = run(["fastcnn", "eager"])
    for name, error in (("fastcnn", 2e-5), ("eager", 0)):
        assert found[name].extra_info["error"] == pytest.approx(error, abs=1e-6)
        assert found[name].extra_info["contender"] == found[name].contender == name
        timed = len(found[name].samples.seconds) * found[name].samples.iterations
        assert calls[name] > timed


def test_an_error_of_ours_is_raised_and_a_peers_reported(monkeypatch):
    def broken(workload):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(CONTENDERS, "eager", Contender("eager", broken, ("op",)))
    found = run(["fastcnn", "eager"])
    assert isinstance(found["eager"], Missing)
    assert "RuntimeError: no such kernel" in str(found["eager"])
    monkeypatch.setitem(CONTENDERS, "fastcnn", Contender("fastcnn", broken, ("op",)))
    with pytest.raises(RuntimeError, match="no such kernel"):
        run(["fastcnn"])


@pytest.mark.parametrize("name", contenders.PEERS)
def test_an_absent_peer_is_missing_by_name(monkeypatch, name):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda module: None)
    found = run([name])
    assert isinstance(found[name], Missing)
    assert "is not installed: pip install fastcnn[peers]" in str(found[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", contenders.PEERS)
def test_an_installed_peer_computes_the_same(name):
    """Runs with `pip install .[peers]`; without, the peer is Missing, which is what the report would say."""
    case = Case("op", "conv2d", "tiny conv2d", call=TINY[3], batch=2)
    (outcome,) = run([name], case).values()
    if isinstance(outcome, Missing):
        assert "is not installed" in str(outcome)
        pytest.skip(str(outcome))
    assert isinstance(outcome, Measurement), outcome


def test_relative_error():
    truth = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(np.array([[3.0, 4.5]], np.float32), truth) == pytest.approx(0.1)
    assert relative_error(torch.tensor([3.0, float("inf")]), truth) == float("inf")
    assert relative_error(torch.zeros(3), truth) == float("inf")


def test_blocks_take_turns():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    samples = timing.interleave(runs, timing.Effort(seconds=0.0, blocks=4, least_samples=4, pause=0.0, warm_up=0.0))
    assert all(len(mine.seconds) == 4 for mine in samples.values())
    changes = sum(x != y for x, y in itertools.pairwise(order))
    assert changes >= 4
    assert samples["a"].iterations > 100  # a call of microseconds is timed in rows of a millisecond


def test_each_contender_has_its_own_times_and_leads_in_turn(monkeypatch):
    """By a clock that the calls themselves move on."""
    now, turns = 0.0, []

    def call(name, seconds):
        def run():
            nonlocal now
            now += seconds
            turns[-1].add(name)

        return run

    clock = SimpleNamespace(perf_counter=lambda: now, sleep=lambda _: turns.append(set()))
    monkeypatch.setattr(timing, "time", clock)
    seconds = {"a": 1e-5, "b": 2.5e-4, "c": 2.0}
    turns.append(set())
    effort = timing.Effort(seconds=0.0, blocks=3, least_samples=6, pause=0.0, warm_up=0.0)
    samples = timing.interleave({name: call(name, s) for name, s in seconds.items()}, effort)
    for name, mine in samples.items():
        assert mine.seconds == pytest.approx([seconds[name]] * 6), "a sample is the mean of its calls"
    assert [mine.iterations for mine in samples.values()] == [100, 4, 1]
    assert ["".join(turn) for turn in turns[1:]] == [*"abcbcacab"]


def test_quantiles():
    samples = timing.Samples(1, [4.0, 1.0, 3.0, 2.0])
    assert samples.median == 2.5
    assert [samples.quantile(q) for q in (0, 0.5, 0.9, 1)] == pytest.approx([1, 2.5, 3.7, 4])


WRONG_KERNEL = """
from fastcnn.workbench.report import contenders, roofline
from fastcnn.workbench.report.contenders import Contender

# Measuring them takes seconds, and nothing here looks at them.
roofline.measure = lambda *_: roofline.Ceilings({{"float32": 1e11}}, {{1024: 1e10}})

right = contenders.CONTENDERS["fastcnn"].prepare

def prepare(workload):
    run = right(workload)
    return lambda: run() * {factor}

contenders.CONTENDERS["fastcnn"] = Contender("fastcnn", prepare, contenders.KINDS)
"""


def suite(tmp_path: Path, factor: float) -> tuple[int, str, Path]:
    """The suite as a user runs it, on two operators, with fastcnn's results multiplied by a factor."""
    (tmp_path / "spoil.py").write_text(WRONG_KERNEL.format(factor=factor))
    output = tmp_path / "made.json"
    command = [sys.executable, "-m", "pytest", "-p", "spoil", "benchmarks/bench_overhead.py", "--benchmark-only", "-q",
               "--quick", "--contenders", "fastcnn,eager", "-k", "conv2d", f"--benchmark-json={output}",
               "-p", "no:cacheprovider"]  # fmt: skip
    # pytest-benchmark refuses to measure where it sees a worker of pytest-xdist, and this test may run in one.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment = {**inherited, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
                   "FASTCNN_BACKEND": "reference", "OMP_NUM_THREADS": "1"}  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, output


def test_the_suite_fails_on_a_wrong_kernel_and_reads_back_otherwise(tmp_path):
    pytest.importorskip("pytest_benchmark")
    from fastcnn.workbench.report.results import Results

    code, text, output = suite(tmp_path, 1.0)
    assert code == 0, text
    made = Results.load(output)
    assert sorted(row.contender for row in made.rows) == ["eager", "fastcnn"]
    compared = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", str(output)], capture_output=True, text=True
    )
    assert compared.returncode == 0, compared.stderr
    assert "tiny_conv2d" in compared.stdout

    code, text, output = suite(tmp_path, 1.01)
    assert code == 1
    assert "fastcnn has a relative error of 1.0e-02 against float64" in text
    assert "1 failed, 1 passed" in text


def test_a_classifier_of_others_is_timed_with_its_share():
    case = Case("classifier", "squeezenet1_1", "squeezenet1_1")
    assert case.flops == pytest.approx(2 * 0.349e9, rel=0.01)  # published: .35 G multiply-adds
    outcome = measure.measure(case, ("fastcnn", "eager"), CEILINGS, SHORT)
    assert outcome["fastcnn"].extra_info["share"] == 1
    assert "share" not in outcome["eager"].extra_info
