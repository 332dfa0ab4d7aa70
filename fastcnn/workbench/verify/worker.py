"""The process that runs kernels: it may hang or die, and takes no other with it. Jobs come in as lines of JSON, one at
a time; each plan's outcome goes out at once. `kernels` starts it and counts the seconds.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastcnn.functional  # noqa: F401  registers the operators
from fastcnn.backends import cuda as cuda_backend
from fastcnn.core import ledger
from fastcnn.core.backend import use_backend
from fastcnn.core.candidate import Candidate, Runner
from fastcnn.core.cases import Case
from fastcnn.core.selector import SELECTORS, Selector
from fastcnn.core.version import VERSION
from fastcnn.ops.conv2d import cuda as conv2d_cuda
from fastcnn.ops.conv2d import triton as conv2d_triton
from fastcnn.workbench.report import timing
from fastcnn.workbench.tune.gpu import driver
from fastcnn.workbench.verify import judge
from fastcnn.workbench.verify.judge import Guarded, Trial

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PRODUCTS = ("conv2d", "linear", "conv2d_max_pool2d")  # multiply on tensor cores, and so have TF32
WEIGHTED = (*PRODUCTS, "rbf")
WITHOUT_OUT = ("linear", "rbf", "lrn_max_pool2d", "conv2d_max_pool2d")  # write no tensor of the caller's
EFFORT = timing.Effort(seconds=0.03, blocks=3, least_samples=9, pause=0.0, warm_up=0.002)


class Setting:
    """Where kernels run. Tests put the emulator in the GPU's place."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def describe(self) -> dict[str, str]:
        """What the ledger says of the place."""
        major, minor = torch.cuda.get_device_capability(self.device)
        return {
            "architecture": f"sm_{major}{minor}", "device": torch.cuda.get_device_name(self.device),
            "driver": driver(), "version": VERSION,
        }  # fmt: skip

    def synchronise(self) -> None:
        torch.cuda.synchronize(self.device)

    @property
    def clock(self) -> str:
        return "cuda"

    def source(self, backend: str) -> str:
        return ledger.source(backend)


def kernels(backends: tuple[str, ...]) -> Iterator[tuple[Selector, Candidate, str]]:
    """Every kernel of the backends with each of its dtypes; "tf32" for those that multiply."""
    for operator in SELECTORS.values():
        for candidate in operator.candidates:
            if candidate.backend in backends:
                for dtype in DTYPES:
                    known = "float32" if dtype == "tf32" else dtype
                    if dtype == "tf32" and operator.name not in PRODUCTS:
                        continue
                    if known in candidate.dtypes or candidate.dtypes == ("every dtype of PyTorch",):
                        yield operator, candidate, dtype


def kernel_name(operator: Selector, candidate: Candidate) -> str:
    """As the ledger has it: "<op>.<backend>.<name>"."""
    return f"{operator.name}.{candidate.backend}.{candidate.name}"


def find(kernel: str) -> tuple[Selector, Candidate]:
    op, backend, name = kernel.split(".")
    operator = SELECTORS[op]
    return operator, next(c for c in operator.candidates if (c.backend, c.name) == (backend, name))


def plans(operator: Selector, candidate: Candidate, problem: Any) -> dict[str, Callable[[], Runner]]:
    """Every plan by which selection could run the problem, as the ledger names it."""
    if (operator.name, candidate.backend) == ("conv2d", "cuda"):
        return {name: partial(_given, runner) for name, runner in conv2d_cuda.plans(problem, candidate.name).items()}
    if (operator.name, candidate.backend) == ("conv2d", "triton") and candidate.name != "grouped":
        return conv2d_triton.plans(problem, candidate.name)
    return {"": partial(candidate.prepare, problem)}


def _given(runner: Runner) -> Runner:
    return runner


@contextlib.contextmanager
def precision(tf32: bool) -> Iterator[None]:
    """Allows or forbids TF32 in PyTorch's convolutions and matrix products within the block."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Within the block, memory that is allocated is full of NaN: outputs and workspaces begin so."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def run_plan(
    setting: Setting, trial: Trial, prepare: Callable[[], Runner], out: Guarded | None, tf32: bool
) -> tuple[str, float]:
    """Runs one plan on one case; what was wrong, "" if nothing was, and the relative error."""
    with poisoned():
        result: Tensor = prepare()(*trial.tensors, None if out is None else out.tensor)
        setting.synchronise()
    found = judge.verdict(result, trial.exact, trial.theirs, tf32) or trial.touched()
    if not found and out is not None and not out.intact():
        found = "what lies beside the output was overwritten"
    return found, judge.error(result, trial.exact)


def correctness(setting: Setting, kernel: str, dtype: str, skip: list[str]) -> Iterator[dict[str, Any]]:
    """Runs every plan of a kernel over every case that it can take; yields what begins and what came of it."""
    operator, candidate = find(kernel)
    tf32 = dtype == "tf32"
    refused = "no case is its own"
    todo: dict[str, list[tuple[Case, Any, tuple[Any, ...]]]] = {}
    with precision(tf32), use_backend(candidate.backend):
        for case in operator.cases:
            found = judge.inputs(case, DTYPES[dtype], setting.device, operator.name in WEIGHTED)
            tensors = [None if g is None else g.tensor for g in found]
            params = operator.normalise(tensors, case.params)
            out = _output(setting, operator, case, tensors, params, dtype)
            problem = operator.infer((*tensors, None if out is None else out.tensor), params)
            reason = candidate.supports(problem)
            if reason and not reason.endswith(cuda_backend.SLOWER):
                refused = reason
                continue
            for i, plan in enumerate(plans(operator, candidate, problem)):
                # Each configuration of a Triton kernel is a compilation of seconds: one case for those that selection
                # would not take first.
                if i == 0 or candidate.backend != "triton" or plan not in todo:
                    todo.setdefault(plan, []).append((case, problem, params))
        trials: dict[Case, Trial] = {}
        for plan, mine in todo.items():
            if plan in skip:
                continue
            yield {"begin": plan}
            yield _plan_outcome(setting, operator, candidate, plan, mine, dtype, trials)
    yield {"done": True, "refused": "" if todo else refused}


def _plan_outcome(
    setting: Setting, operator: Selector, candidate: Candidate, plan: str, mine: list[Any], dtype: str,
    trials: dict[Case, Trial],
) -> dict[str, Any]:  # fmt: skip
    worst, at = 0.0, ""
    for case, problem, params in mine:
        at = problem.summary()
        try:
            if case not in trials:
                found = judge.inputs(case, DTYPES[dtype], setting.device, operator.name in WEIGHTED)
                trials[case] = Trial.of(operator, case, params, found)
            trial = trials[case]
            out = _output(setting, operator, case, trial.tensors, params, dtype)
            prepare = plans(operator, candidate, problem)[plan]
            wrong, error = run_plan(setting, trial, prepare, out, dtype == "tf32")
        except Exception as failure:  # of the compiler, the launch, or the kernel while it ran
            text = " ".join(str(failure).split())[:300]
            return {"plan": plan, "failed": f"{type(failure).__name__}: {text}", "problem": at, "raised": True}
        if wrong:
            return {"plan": plan, "failed": wrong, "problem": at}
        worst = max(worst, error)
    return {"plan": plan, "failed": "", "error": worst, "problem": at, "cases": len(mine)}


def _output(
    setting: Setting, operator: Selector, case: Case, tensors: list[Tensor | None], params: tuple[Any, ...], dtype: str
) -> Guarded | None:
    """Where the kernel is to write: between guards, where the operator takes such a tensor."""
    if operator.name in WITHOUT_OUT:
        return None
    shape = operator.infer((*tensors, None), params).output_shape
    return judge.guarded(shape, DTYPES[dtype], setting.device, case.sliced)


def race(
    setting: Setting, op: str, index: int, dtype: str, names: dict[str, list[str]], known: list[list[str]]
) -> Iterator[dict[str, Any]]:
    """Times the kernels named, each by the first plan that selection takes of those given, beside PyTorch's operator.

    known: (kernel, kind of problem) of the races already run; nothing is timed if all are.
    """
    operator, case = SELECTORS[op], SELECTORS[op].races[index]
    runs: dict[str, timing.Run] = {}
    taken: dict[str, str] = {}
    with precision(dtype == "tf32"), torch.inference_mode():
        given = judge.inputs(case, DTYPES[dtype], setting.device, op in WEIGHTED)
        tensors = [None if g is None else g.tensor for g in given]
        params = operator.normalise(tensors, case.params)
        problem = operator.infer((*tensors, None), params)
        for kernel, verified in names.items():
            operator, candidate = find(kernel)
            with use_backend(candidate.backend):
                reason = candidate.supports(problem)
                if reason and not reason.endswith(cuda_backend.SLOWER):
                    continue
                found = plans(operator, candidate, problem)
                plan = next((name for name in found if name in verified), None)
                if plan is None:
                    continue
                runner = found[plan]()
            runs[kernel], taken[kernel] = partial(runner, *tensors, None), plan
        if any([kernel, ledger.kind(problem)] not in known for kernel in taken):
            runs["pytorch"] = partial(operator.definition, *tensors, *params)
            benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
            samples = timing.interleave(runs, EFFORT, setting.clock)
            torch.backends.cudnn.benchmark = benchmark
            for kernel, plan in taken.items():
                yield {
                    "kernel": kernel, "plan": plan, "kind": ledger.kind(problem), "problem": problem.summary(),
                    "microseconds": samples[kernel].median * 1e6,
                    "pytorch_microseconds": samples["pytorch"].median * 1e6,
                }  # fmt: skip
    yield {"done": True}


def serve(setting: Setting) -> None:
    """Answers jobs from standard input until it ends. Whatever else is printed goes to standard error."""
    answers = sys.stdout
    sys.stdout = sys.stderr

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    races = {op: len(selector.races) for op, selector in SELECTORS.items()}
    say(hello=True, races=races, **setting.describe(), cuda=setting.source("cuda"), triton=setting.source("triton"))
    for line in sys.stdin:
        job = json.loads(line)
        if "race" in job:
            found = race(setting, job["op"], job["race"], job["dtype"], job["kernels"], job["known"])
        else:
            found = correctness(setting, job["kernel"], job["dtype"], job["skip"])
        for answer in found:
            say(**answer)
            if answer.get("raised"):
                return  # what comes after a failed launch in the same process may fail for it


if __name__ == "__main__":
    serve(Setting(torch.device("cuda", torch.cuda.current_device())))
