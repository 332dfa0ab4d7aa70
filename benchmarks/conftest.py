"""The suite: pytest benchmarks/ --benchmark-only [--quick] [--benchmark-json=results/FILE.json]

A test is one contender of one case. The first of a case measures all that were selected, in turns, after their
results were checked; each test then gives its own samples to pytest-benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastcnn.workbench.report import measure, results, roofline, suite
from fastcnn.workbench.report.cases import Case
from fastcnn.workbench.report.measure import Measurement
from fastcnn.workbench.report.peers import Missing


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastcnn")
    group.addoption("--quick", action="store_true", help="Less time a case and fewer cases: under 20 minutes.")
    group.addoption("--networks", default="", help="Only these networks and their layers: lenet5,resnet50.")
    group.addoption("--contenders", default="", help="Only these contenders: fastcnn,eager,compile.")
    group.addoption("--device", default="", help="cpu or cuda; cuda if there is one.")


class ReplayClock:
    """pytest-benchmark's timer in this suite: it moves by the durations that were measured beforehand.

    pytest-benchmark times a test in one go; contenders that take turns are measured outside of it.
    """

    now = 0.0

    def __call__(self) -> float:
        return ReplayClock.now


CLOCK = ReplayClock()


class Session:
    """What the tests of one run share: settings, ceilings, and the outcome of the case at hand."""

    def __init__(self, config: pytest.Config) -> None:
        split = lambda name: tuple(filter(None, config.getoption(name).split(",")))  # noqa: E731
        device = config.getoption("--device") or ("cuda" if torch.cuda.is_available() else "cpu")
        self.plan = suite.plan(device, config.getoption("--quick"), split("--networks"), split("--contenders"))
        self.selected: dict[str, list[str]] = {}
        self.missing: list[dict[str, str]] = []
        self._ceilings: roofline.Ceilings | None = None
        self._case: Case | None = None
        self._outcome: dict[str, Any] = {}

    @property
    def ceilings(self) -> roofline.Ceilings:
        if self._ceilings is None:
            self._ceilings = roofline.measure(self.plan.selection.device, self.plan.selection.dtypes)
        return self._ceilings

    def outcome(self, case: Case, contender: str) -> Any:
        if self._case != case:
            self._outcome = {}  # frees the tensors of the case before
            contenders, plan = self.selected[case.group], self.plan
            self._outcome = measure.measure(case, contenders, self.ceilings, plan.effort, plan.with_memory(case))
            self._case = case
        return self._outcome[contender]


_SESSION = pytest.StashKey[Session]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SESSION] = Session(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "contender" not in metafunc.fixturenames:
        return
    plan = metafunc.config.stash[_SESSION].plan
    kind = metafunc.module.KIND
    metafunc.parametrize(
        ("case", "contender"),
        [
            pytest.param(case, name, id=f"{case.id}-{name}")
            for case in plan.cases(kind)
            for name in plan.contenders(case)
        ],
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if "contender" in parameters:
            selected = config.stash[_SESSION].selected
            selected.setdefault(parameters["case"].group, []).append(parameters["contender"])


@pytest.fixture
def compete(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[Case, str], None]:
    """Measures a case with all its contenders, then reports this one; a wrong result fails, untimed."""
    session = request.config.stash[_SESSION]

    def report(case: Case, contender: str) -> None:
        outcome = session.outcome(case, contender)
        if isinstance(outcome, Missing):
            session.missing.append({"case": case.group, "contender": contender, "reason": str(outcome)})
            pytest.skip(f"{contender}: {outcome}")
        if not isinstance(outcome, Measurement):
            raise outcome
        benchmark.group = case.group
        benchmark.extra_info.update(outcome.extra_info)
        samples, iterations = iter(outcome.samples.seconds), outcome.samples.iterations
        benchmark.extra_info["iterations"] = iterations

        def replay() -> None:
            ReplayClock.now += next(samples)

        ReplayClock.now = 0.0
        benchmark.pedantic(replay, rounds=len(outcome.samples.seconds))

    return report


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    session = config.stash[_SESSION]
    plan = session.plan
    about = results.about(plan.selection.device, session.ceilings.to_json(), plan.settings)
    output_json["fastcnn"] = {**about, "missing": session.missing}
    output_json["machine_info"] = results.machine()
    output_json["commit_info"] = about["commit"]
