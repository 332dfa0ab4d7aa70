"""python -m fastcnn verify: which GPU kernels are right on this device, and where they beat PyTorch.

First every plan of every kernel runs over small odd problems, in processes of their own, several at once: one that
hangs or dies takes no other with it. Then what was right is timed beside PyTorch's own operator, one at a time. Each
outcome goes into the hardware ledger at once, so that a run that is cut off goes on where it stopped.
"""

from __future__ import annotations

import datetime
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastcnn.core import ledger
from fastcnn.core.ledger import Entry, Race
from fastcnn.workbench.verify.pool import WORKER, Lost, Worker
from fastcnn.workbench.verify.worker import DTYPES, kernel_name, kernels

BACKENDS = ("cuda", "triton")
NOT_HERE = "cannot run here"


@dataclass
class Report:
    """What a run of `verify` found."""

    verified: int = 0  # plans
    failed: list[Entry] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # kernel and dtype -> why it takes no case on this device
    races: list[Race] = field(default_factory=list)
    lost_races: list[str] = field(default_factory=list)  # timings that hung or died
    not_reached: int = 0  # units of work left when the time was over

    @property
    def won(self) -> list[Race]:
        return [r for r in self.races if r.pytorch_microseconds >= ledger.MARGIN * r.microseconds]


@dataclass(frozen=True)
class Options:
    """How to verify.

    only: kernels whose name, "<op>.<backend>.<name>", contains this text. again: also what the ledger has already.
    jobs: processes at once. seconds: for one plan's cases, compiling included, before it counts as hanging. minutes: no
    work begins after these. races: whether to time what is right.
    """

    backends: tuple[str, ...] = BACKENDS
    only: str = ""
    again: bool = False
    jobs: int = 4
    seconds: float = 60.0
    minutes: float = 60.0
    races: bool = True
    worker: Sequence[str] = WORKER


class Verifier:
    """One run of `verify`: the units of work, the workers, and where outcomes go."""

    def __init__(self, output: Path, options: Options, say: Callable[[str], None]) -> None:
        self.output, self.options, self.say = output, options, say
        self.report = Report()
        self.lock = threading.Lock()
        self.deadline = time.monotonic() + 60 * options.minutes
        self.begun = self.total = 0

    def run(self) -> Report:
        first = Worker(self.options.worker)
        first.start()
        self.about = first.about
        work: queue.Queue[tuple[str, str]] = queue.Queue()
        for operator, candidate, dtype in kernels(self.options.backends):
            if self.options.only in kernel_name(operator, candidate):
                work.put((kernel_name(operator, candidate), dtype))
        self.total = work.qsize()
        workers = [first, *(Worker(self.options.worker) for _ in range(min(self.options.jobs, self.total) - 1))]
        threads = [threading.Thread(target=self._take, args=(worker, work)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.report.not_reached = work.qsize()
        for worker in workers[1:]:
            worker.stop()
        if self.options.races:
            self._race(first)
        first.stop()
        return self.report

    # ---- correctness -----------------------------------------------------------------------------------

    def _take(self, worker: Worker, work: queue.Queue[tuple[str, str]]) -> None:
        while time.monotonic() < self.deadline:
            try:
                kernel, dtype = work.get_nowait()
            except queue.Empty:
                return
            try:
                self._verify(worker, kernel, dtype)
            except Exception as error:  # of this program: the others go on
                with self.lock:
                    self.report.failed.append(self._entry(kernel, dtype, "", "", f"verify itself failed: {error}"))

    def _verify(self, worker: Worker, kernel: str, dtype: str) -> None:
        start, before = time.monotonic(), self._known(kernel, dtype)
        skip, verified, failed = list(before), 0, 0
        while True:
            plan = None
            try:
                for answer in worker.ask({"kernel": kernel, "dtype": dtype, "skip": skip}, self.options.seconds):
                    if "begin" in answer:
                        plan = answer["begin"]
                    elif "plan" in answer:
                        skip.append(answer["plan"])
                        entry = self._entry(kernel, dtype, answer["plan"], answer["problem"], answer["failed"],
                                            answer.get("error"))  # fmt: skip
                        verified, failed = self._enter(entry, verified, failed)
                        plan = None
                    elif answer.get("done"):
                        self._progress(kernel, dtype, verified, failed, len(before), answer["refused"], start)
                        return
            except Lost as lost:
                if plan is None or plan in skip:  # no plan was running: nothing to say of the kernel itself
                    with self.lock:
                        self.report.failed.append(self._entry(kernel, dtype, "", "", str(lost)))
                    self._progress(kernel, dtype, verified, failed + 1, len(before), "", start)
                    return
                skip.append(plan)
                verified, failed = self._enter(self._entry(kernel, dtype, plan, "", str(lost)), verified, failed)

    def _known(self, kernel: str, dtype: str) -> list[str]:
        """The plans that need not run again: verified on this device from these sources."""
        if self.options.again:
            return []
        here = self.about["architecture"], self.about["device"], self._source(kernel)
        known = ledger.read(self.output).entries
        return [
            e.plan for e in known
            if (e.kernel, e.dtype) == (kernel, dtype) and (e.architecture, e.device, e.source) == here and not e.failed
        ]  # fmt: skip

    def _source(self, kernel: str) -> str:
        return self.about[kernel.split(".")[1]]

    def _entry(
        self, kernel: str, dtype: str, plan: str, problem: str, failed: str, error: float | None = None
    ) -> Entry:
        about = {name: self.about[name] for name in ("architecture", "device", "driver", "version")}
        return Entry(
            kernel=kernel, plan=plan, dtype=dtype, source=self._source(kernel), date=_today(), error=error,
            problem=problem, failed=failed, **about,
        )  # fmt: skip

    def _enter(self, entry: Entry, verified: int, failed: int) -> tuple[int, int]:
        with self.lock:
            ledger.write(self.output, [entry])
            if entry.failed:
                self.report.failed.append(entry)
                plan = f" {entry.plan}" if entry.plan else ""
                self.say(f"FAILED: {entry.kernel}{plan} in {entry.dtype}: {entry.failed}: {entry.problem}")
            else:
                self.report.verified += 1
        return verified + (not entry.failed), failed + bool(entry.failed)

    def _progress(
        self, kernel: str, dtype: str, verified: int, failed: int, known: int, refused: str, start: float
    ) -> None:
        with self.lock:
            self.begun += 1
            if refused:
                self.report.refused[f"{kernel} {dtype}"] = refused
                what = f"{NOT_HERE}: {refused}"
            else:
                plans = f"{verified} plan{'s' * (verified != 1)} verified"
                what = plans + f", {failed} failed" * bool(failed) + f", {known} known" * bool(known)
            self.say(f"[{self.begun}/{self.total}] {kernel} {dtype}: {what} ({time.monotonic() - start:.1f} s)")

    # ---- races -----------------------------------------------------------------------------------------

    def _race(self, worker: Worker) -> None:
        right: dict[tuple[str, str], dict[str, list[str]]] = {}
        for e in ledger.read(self.output).entries:
            if not e.failed and e.architecture == self.about["architecture"] and e.source == self._source(e.kernel):
                right.setdefault((e.kernel.split(".")[0], e.dtype), {}).setdefault(e.kernel, []).append(e.plan)
        work = [
            (op, dtype, i)
            for op, count in self.about["races"].items() for dtype in DTYPES for i in range(count)
            if any(self.options.only in kernel for kernel in right.get((op, dtype), {}))
        ]  # fmt: skip
        done = {(r.kernel, r.dtype, r.kind) for r in ledger.read(self.output).races
                if r.device == self.about["device"] and r.source == self._source(r.kernel)}  # fmt: skip
        for n, (op, dtype, i) in enumerate(work):
            if time.monotonic() >= self.deadline:
                self.report.not_reached += len(work) - n
                return
            known = [] if self.options.again else sorted((k, kind) for k, d, kind in done if d == dtype)
            job = {"race": i, "op": op, "dtype": dtype, "kernels": right[op, dtype], "known": known}
            try:
                found = [a for a in worker.ask(job, self.options.seconds) if "kernel" in a]
            except Lost as lost:
                self.report.lost_races.append(f"{op} {dtype}, case {i}: {lost}")
                self.say(f"timing lost: {self.report.lost_races[-1]}")
                continue
            races = [
                Race(dtype=dtype, device=self.about["device"], source=self._source(row["kernel"]), date=_today(), **row)
                for row in found
            ]
            ledger.write(self.output, races=races)
            self.report.races += races
            for r in races:
                ratio = r.pytorch_microseconds / r.microseconds
                self.say(
                    f"[{n + 1}/{len(work)}] {r.kernel} {dtype}: {r.microseconds:.1f} us, PyTorch "
                    f"{r.pytorch_microseconds:.1f} us, {ratio:.2f} times as fast: {r.problem}"
                )


def verify(output: Path, options: Options = Options(), say: Callable[[str], None] = print) -> Report:
    """Verifies the GPU kernels on the current device, and enters each outcome into the ledger at `output`.

    Raises:
        Lost: the worker process does not start, for lack of a GPU above all.
    """
    return Verifier(output, options, say).run()


def summary(report: Report) -> list[str]:
    """The end of a run, in words."""
    lines = [
        f"{report.verified} plans verified, {len(report.failed)} failed, {len(report.refused)} kernels {NOT_HERE}",
        f"{len(report.won)} of {len(report.races)} races with PyTorch won: there the kernels are chosen from now on",
    ]
    if report.not_reached:
        lines.append(f"{report.not_reached} units of work not reached: the same command goes on from here")
    lines += [f"FAILED: {e.kernel} {e.plan} {e.dtype}: {e.failed}: {e.problem}" for e in report.failed]
    return lines


def _today() -> str:
    return datetime.date.today().isoformat()
