"""python -m fastcnn tune --device cuda: measures which plan or configuration is the fastest for each layer here.

A GPU kernel runs a convolution by one of dozens of tiles, and a cost model that no measurement went into says
which. Here every one of them is compiled, its result compared with float64, and then timed by CUDA events with the
L2 cache flushed before each call. What wins goes into a tuning file (see core/tuning_file.py) at once, layer by layer.

Not yet run on hardware: tests rehearse it on the emulator and on Triton's interpreter.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from fastcnn.backends import cuda as cuda_backend
from fastcnn.backends.triton.target import target_of
from fastcnn.core import tuning_file
from fastcnn.core.backend import use_backend
from fastcnn.core.explain import explain
from fastcnn.core.selector import SELECTORS
from fastcnn.ops.conv2d.contract import Conv2dProblem, tuning_key
from fastcnn.ops.conv2d.cpu import native_problem
from fastcnn.ops.conv2d.cuda import Convolution, conv2d_plans
from fastcnn.ops.linear.triton import as_conv2d
from fastcnn.workbench.report import results, timing
from fastcnn.workbench.report.cases import Case, Selection
from fastcnn.workbench.report.commands import file_in, progress_bar
from fastcnn.workbench.report.measure import TOLERANCE, relative_error
from fastcnn.workbench.report.summary import geometric_mean
from fastcnn.workbench.report.timing import Effort, Run
from fastcnn.workbench.verify.judge import TF32_ERROR

BACKENDS = ("cuda", "triton")
DTYPES = ("float32", "tf32", "float16", "bfloat16")
# What the cost model takes stays where another is not faster by more than this: timings differ by as much.
NOISE = 0.02


class Layer(NamedTuple):
    """A convolution with its tensors and its result in float64; a linear layer is one of images of one pixel."""

    problem: Conv2dProblem
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    residual: Tensor | None
    truth: Tensor

    def empty(self) -> Tensor:
        return self.problem.empty_output(self.x)


class Option(NamedTuple):
    """One way to run a layer: its name, as a tuning file has it, and what prepares the call that returns the result."""

    name: str
    choice: Any
    prepare: Callable[[], Run]


@dataclass
class Tuned:
    """What was found for a layer: the options timed, and those that could not be.

    key: the layer's name in the tuning file. model: the option that the cost model takes. seconds: medians.
    pytorch: that of PyTorch's operator with its epilogue, cuDNN choosing by measuring.
    """

    key: str
    model: str
    seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    entry: tuning_file.Entry | None = None
    pytorch: float | None = None

    @property
    def best(self) -> str:
        """The fastest; the model's own where that is as fast within the noise."""
        fastest = min(self.seconds, key=self.seconds.__getitem__)
        as_fast = self.seconds.get(self.model, float("inf")) <= (1 + NOISE) * self.seconds[fastest]
        return self.model if as_fast else fastest


def cases(
    networks: Sequence[str], batches: Sequence[int], dtypes: Sequence[str], device: str = "cuda"
) -> list[tuple[Case, bool]]:
    """Every distinct convolution and linear layer of the networks, and whether its products may be TF32's.

    Raises:
        ValueError: an unknown dtype.
    """
    found = []
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ValueError(f"tune: unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
        selection = Selection(
            kinds=("op",), networks=tuple(networks), op_batches=tuple(batches), device=device,
            dtypes=("float32" if dtype == "tf32" else dtype,), most_flops=float("inf"),
        )  # fmt: skip
        found += [(case, dtype == "tf32") for case in selection.cases() if case.subject in ("conv2d", "linear")]
    return found


def layer_of(case: Case) -> Layer:
    """The layer's tensors, random ones."""
    workload = case.build()
    given: dict[str, Any] = {**workload.inputs, **dict(workload.fast.named_parameters())}
    x, weight = given["input"], given["weight"]
    bias, residual = (given.get(name) for name in ("bias", "residual"))
    with use_backend("reference"):
        (choice,) = explain(workload.fast, *workload.inputs.values()).choices
    truth = workload.truth().cpu()
    if case.subject == "linear":
        return Layer(as_conv2d(choice.problem), x[:, :, None, None], weight[:, :, None, None], bias, None, truth)
    return Layer(choice.problem, x, weight, bias, residual, truth)


def cuda_options(layer: Layer, tf32: bool) -> Iterator[Option]:
    """Every plan of the CUDA kernels, the one first that the cost model takes."""
    struct, device = native_problem(layer.problem), layer.problem.device

    def prepare(plan: Any) -> Run:
        convolution, y = Convolution(struct, device, plan), layer.empty()
        weight = layer.weight.contiguous(memory_format=torch.channels_last)

        def run() -> Tensor:
            convolution(layer.x, weight, layer.bias, layer.residual, y)
            return y

        return run

    for plan in conv2d_plans(struct, cuda_backend.device_of(device), tf32):
        yield Option(plan.name, plan.name, partial(prepare, plan))


def triton_options(layer: Layer, tf32: bool) -> Iterator[Option]:
    """Every configuration of the Triton kernel, the one first that the cost model takes."""
    from fastcnn.backends.triton import cost
    from fastcnn.ops.conv2d.triton_launch import Conv2d, candidates, gemm_of

    problem, target = layer.problem, target_of(layer.problem.device)

    def prepare(config: cost.Config) -> Run:
        kernel, y = Conv2d(problem, target, allow_tf32=tf32, config=config), layer.empty()
        weight = kernel.pack(layer.weight)

        def run() -> Tensor:
            kernel(layer.x, weight, layer.bias, layer.residual, y)
            return y

        return run

    gemm = gemm_of(problem, tf32)
    for config in cost.ranked(target, gemm, candidates(problem, target, gemm)):
        yield Option(str(config), cost.entry(config), partial(prepare, config))


PYTORCH = "pytorch"


def _pytorch(layer: Layer) -> Tensor:
    torch.backends.cudnn.benchmark = True
    p = layer.problem
    params = (p.stride, p.padding, p.dilation, p.groups, p.activation)
    return SELECTORS["conv2d"].definition(layer.x, layer.weight, layer.bias, layer.residual, *params)


OPTIONS: dict[str, Callable[[Layer, bool], Iterator[Option]]] = {"cuda": cuda_options, "triton": triton_options}


def tune_layer(
    case: Case, tf32: bool, backend: str, effort: Effort, most: int = 0, known: Collection[str] = ()
) -> Tuned:
    """Times the options of one layer, those that compute the right thing, and PyTorch's own operator beside them.

    most: only so many of them, those that the cost model puts first; all if 0. known: keys of layers to leave alone.
    """
    layer = layer_of(case)
    if tuning_key(layer.problem, tf32) in known:
        return Tuned(tuning_key(layer.problem, tf32), model="")
    options = {option.name: option for option in list(OPTIONS[backend](layer, tf32))[: most or None]}
    found = Tuned(tuning_key(layer.problem, tf32), model=next(iter(options), ""))
    allowed = TF32_ERROR if tf32 else TOLERANCE[case.dtype]
    device = layer.problem.device
    runs: dict[str, Run] = {}
    with torch.no_grad():
        for name, option in options.items():
            try:
                run = option.prepare()
                error = relative_error(run(), layer.truth)
            except Exception as failure:  # of the compiler, or a launch that asks for too much
                found.failed.append(f"{name}: {type(failure).__name__}: {' '.join(str(failure).split())[:200]}")
                if device.type == "cuda":
                    torch.cuda.synchronize(device)  # raises if the context broke: nothing after that could be right
                continue
            if error > allowed:
                found.wrong.append(f"{name}: relative error {error:.1e}, allowed {allowed:.0e}")
                continue
            runs[name], found.errors[name] = run, error
        if runs:
            runs[PYTORCH] = partial(_pytorch, layer)
        samples = timing.interleave(runs, effort, device.type) if runs else {}
    found.pytorch = samples.pop(PYTORCH).median if samples else None
    found.seconds = {name: mine.median for name, mine in samples.items()}
    if found.seconds:
        best, model = found.best, found.seconds.get(found.model)
        found.entry = tuning_file.Entry(
            choice=options[best].choice,
            microseconds=round(1e6 * found.seconds[best], 2),
            model_microseconds=None if model is None else round(1e6 * model, 2),
            error=found.errors[best],
            candidates=len(found.seconds),
            date=datetime.date.today().isoformat(),
        )
    return found


def about(device: torch.device) -> dict[str, Any]:
    """What a tuning file says of its origin."""
    return {
        "device": torch.cuda.get_device_name(device),
        "architecture": "sm_{}{}".format(*torch.cuda.get_device_capability(device)),
        "driver": driver(),
        "cuda": torch.version.cuda,
        "versions": {name: metadata.version(name) for name in ("torch", "triton") if importlib.util.find_spec(name)},
        "commit": results.commit()["id"],
    }


def driver() -> str:
    """The driver's version; "" where there is none."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else ""


def usable(backends: Sequence[str]) -> list[str]:
    """The backends that can run here.

    Raises:
        ValueError: an unknown backend, no GPU, or nothing of what was asked is there.
    """
    for backend in backends:
        if backend not in BACKENDS:
            raise ValueError(f"tune: unknown backend {backend!r}; allowed: {', '.join(BACKENDS)}")
    if not torch.cuda.is_available():
        raise ValueError("tune: no CUDA device is visible; --device cpu checks the CPU's rule")
    there = {"cuda": cuda_backend.built(), "triton": importlib.util.find_spec("triton") is not None}
    found = [backend for backend in backends if there[backend]]
    if not found:
        raise ValueError(f"tune: of {', '.join(backends)} nothing is built or installed here")
    return found


def run(
    console: Console, networks: Sequence[str], batches: Sequence[int], effort: Effort, *,
    dtypes: Sequence[str] = DTYPES, backends: Sequence[str] = BACKENDS, output: Path | None = None, most: int = 0,
    minutes: float = float("inf"), again: bool = False,
) -> Path:  # fmt: skip
    """Tunes every layer for the current CUDA device, writes the tuning file, and prints what was gained.

    output: a file or a folder; the user's cache unless given. minutes, again: see `tune`. Returns the file.

    Raises:
        ValueError: no CUDA device, an unknown dtype or backend, or a file of another device at `output`.
        AssertionError: at the end, if an option computed something wrong; it was not timed and is not taken.
    """
    chosen = cases(networks, batches, dtypes)
    found_backends = usable(backends)
    origin = about(torch.device("cuda", torch.cuda.current_device()))
    path = file_in(output or tuning_file.USER, tuning_file.file_name(origin["device"]))
    return tune(console, chosen, found_backends, path, origin, effort, most=most, minutes=minutes, again=again)


def tune(
    console: Console, chosen: Sequence[tuple[Case, bool]], backends: Sequence[str], path: Path, origin: dict[str, Any],
    effort: Effort, *, most: int = 0, minutes: float = float("inf"), again: bool = False,
) -> Path:  # fmt: skip
    """Tunes the layers, those first that networks have most often, and writes each one's choice at once.

    minutes: no layer is begun after these; the same command goes on with the next. again: also what the file has.
    Beside the tuning file, FILE.timings.jsonl keeps every option's time and PyTorch's own: what a cost model is
    fitted to.
    """
    held = tuning_file.read_for(path, origin["device"])["entries"]
    known = {} if again else held
    gains: dict[str, list[float]] = {backend: [] for backend in backends}
    wrong, failed = [], []
    often = sorted(chosen, key=lambda case: -sum(count for _, count in case[0].networks))
    work = [(backend, case, tf32) for backend in backends for case, tf32 in often]
    console.print(f"{len(work)} layers, up to {most or 'some dozens of'} candidates in each, for {minutes:g} minutes")
    begun, done = time.monotonic(), 0
    with progress_bar(console) as progress:
        for backend, case, tf32 in progress.track(work, description="timing"):
            if time.monotonic() - begun > 60 * minutes:
                console.print(f"{len(work) - done} layers not reached: the same command goes on from here")
                break
            done += 1
            found = tune_layer(case, tf32, backend, effort, most, known.get(backend, {}))
            wrong += [f"{backend} {found.key}: {what}" for what in found.wrong]
            failed += [f"{backend} {found.key}: {what}" for what in found.failed]
            if found.entry is None:
                continue
            # At once: a later layer may end the process.
            tuning_file.write(path, origin, backend, found.key, found.entry)
            with path.with_suffix(".timings.jsonl").open("a", encoding="utf-8") as timings:
                row = {"backend": backend, "layer": found.key, "seconds": found.seconds, "pytorch": found.pytorch}
                timings.write(json.dumps(row) + "\n")
            if found.entry.model_microseconds is not None:
                gains[backend].append(found.entry.model_microseconds / found.entry.microseconds)
    for selector in SELECTORS.values():
        selector.forget()
    for backend, ratios in gains.items():
        if ratios:
            better = sum(ratio > 1 for ratio in ratios)
            console.print(
                f"{backend}: {len(ratios)} layers; in {better} another choice than the cost model's is faster; "
                f"the model's takes {geometric_mean(ratios):.3f} times as long as the best (geometric mean)"
            )
    for what in failed:
        console.print(f"failed, not timed: {what}", highlight=False, markup=False)
    console.print(f"[bold]{path}[/bold]", highlight=False)
    console.print("Kernels that the ledger does not show verified here are not chosen: python -m fastcnn verify")
    if wrong:
        raise AssertionError(f"wrong results: {'; '.join(wrong)}")
    return path
