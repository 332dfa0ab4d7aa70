"""python -m fastcnn tune: every algorithm is timed, and a wrong one is told and not timed."""

import dataclasses

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from fastcnn import __main__, explain
from fastcnn.ops.conv2d import cpu
from fastcnn.workbench.report import timing
from fastcnn.workbench.tune import rules as tune

EFFORT = timing.Effort(seconds=0.001, blocks=1, least_samples=2, pause=0, warm_up=0)


@pytest.fixture
def case() -> tune.Case:
    (found,) = [c for c in tune.cases(["alexnet"], [1]) if "192->384" in c.label]
    return found


def test_every_capable_algorithm_is_timed(case: tune.Case) -> None:
    checked = tune.check(case, EFFORT)
    assert set(checked.seconds) == {"winograd_f4", "winograd_f2", "staged", "direct"}  # F6 is beyond the tolerance
    with torch.no_grad():
        (choice,) = explain(case.build().fast, *case.build().inputs.values()).choices
    assert checked.chosen == choice.taken.name
    assert not checked.wrong
    assert checked.loss >= 1


def test_loss_is_the_time_of_what_is_taken_over_the_fastest(case: tune.Case) -> None:
    checked = tune.Checked(case, "taken", {"slow": 4.0, "taken": 3.0, "fast": 2.0})
    assert (checked.fastest, checked.loss) == ("fast", 1.5)


def test_weights_take_turns_and_are_packed_before() -> None:
    weight, seen = torch.zeros(tune.BEYOND_CACHES // 8), []  # half as large as what no cache keeps

    def runner(input: torch.Tensor, weight: torch.Tensor, *rest: torch.Tensor | None) -> torch.Tensor:
        seen.append(weight.data_ptr())
        return input

    run = tune._rotated(runner, [torch.randn(1), weight, None, None])
    packed = seen.copy()
    for _ in range(4):
        run()
    assert len(set(packed)) == len(packed) == 2
    assert seen[2:] == packed * 2


def test_a_wrong_algorithm_is_not_timed(case: tune.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(candidate: cpu.Candidate) -> cpu.Candidate:
        def prepare(problem: cpu.Conv2dProblem) -> cpu.Runner:
            runner = candidate.prepare(problem)

            def run(*tensors: torch.Tensor | None) -> torch.Tensor:
                y = runner(*tensors)
                y[0, 0, 0, 0] += 100
                return y

            return run

        return dataclasses.replace(candidate, prepare=prepare)

    monkeypatch.setattr(cpu, "CANDIDATES", [broken(c) if c.name == "staged" else c for c in cpu.CANDIDATES])
    monkeypatch.setattr(tune, "cases", lambda networks, batches: [case])
    assert tune.check(case, EFFORT).wrong == ("staged",)
    with pytest.raises(AssertionError, match=r"wrong results: .*staged"):
        tune.run(Console(), ["alexnet"], [1], EFFORT)


def test_command(monkeypatch: pytest.MonkeyPatch, case: tune.Case) -> None:
    monkeypatch.setattr(tune, "cases", lambda networks, batches: [case])
    result = CliRunner().invoke(__main__.app, ["tune", "--networks", "alexnet", "--batches", "1", "--seconds", "0.01"])
    assert result.exit_code == 0, result.output
    assert "1 convolutions" in result.output
    for wrong in (["--networks", "nothing"], ["--batches", "0"]):
        assert CliRunner().invoke(__main__.app, ["tune", *wrong]).exit_code == 1
