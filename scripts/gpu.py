"""What a GPU is used for when one is at hand for minutes: `make gpu PART=1`, then `make gpu PART=2`.

Part 1 fits 400 seconds, part 2 300, on a machine with many cores, nvcc and no network. Each step has a limit of its
own; what passes it is killed with all it started. Each step's output goes to a file of its own as it comes, and
summary.txt and steps.json are written anew after each step: the machine may be taken away at any moment.

Environment:
  PART=1 or 2            which part (default: both, one after another)
  STEPS="build verify"   only these steps
  OUT                    where results go (default: results/gpu); part 2 finds part 1's there
  BUDGET                 seconds in all, in the place of a part's own
  FASTCNN_CUDA_ARCHS     architectures to build (default: that of the GPU)
  REHEARSE=1             without a GPU: every step's counterpart on the emulator and Triton's interpreter

Needs in the current Python what the build and the tests need: torch with CUDA, triton, setuptools, pybind11, cmake,
ninja, pytest, pytest-xdist, pytest-timeout, typer, rich. Fetches nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = os.environ.get("PYTHON", sys.executable)
OUT = Path(os.environ.get("OUT", ROOT / "results" / "gpu")).resolve()
REHEARSE = bool(os.environ.get("REHEARSE"))
BUDGETS = {1: 400, 2: 300}
# A rehearsal has few cores, and an emulator in the place of a GPU.
PATIENCE = 4 if REHEARSE else 1
LEAST = 5  # seconds that are worth beginning a step for


@dataclass(frozen=True)
class Step:
    """One command, and its counterpart in a rehearsal.

    limit: seconds. beside: the steps after it do not wait for it. after: a step begun beside that this one waits for.
    """

    name: str
    part: int
    limit: int
    command: Sequence[str]
    rehearsal: Sequence[str]
    beside: bool = False
    after: str = ""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """What became of a step; `verdict` is "passed", "FAILED (exit 1)", "TIMED OUT after 9 s" or "not run: why"."""

    name: str
    part: int
    verdict: str
    seconds: float
    limit: int


def python(*arguments: str) -> list[str]:
    return [PYTHON, *arguments]


def fastcnn(*arguments: str) -> list[str]:
    return python("-m", "fastcnn", *arguments)


def pytest(*arguments: str, processes: int = 0, seconds: int = 30) -> list[str]:
    """Processes of their own: a kernel that breaks its CUDA context takes no other test with it, one that hangs is
    killed."""
    split = ["-n", str(processes), "--timeout", str(seconds), "--timeout-method", "thread"] if processes else []
    return python("-m", "pytest", "-q", "-o", f"cache_dir={OUT / 'pytest'}", *split, *arguments)


VERSIONS = """
import platform, subprocess, torch
print(platform.platform(), platform.python_version(), "torch", torch.__version__)
print("cuDNN", torch.backends.cudnn.version())
import triton; print("triton", triton.__version__)
if {gpu}:
    torch.cuda.init()
    for i in range(torch.cuda.device_count()): print(torch.cuda.get_device_properties(i))
    query = "name,driver_version,clocks.sm,clocks.max.sm,power.draw,power.limit,temperature.gpu"
    print(subprocess.run(["nvidia-smi", "--query-gpu=" + query, "--format=csv"], capture_output=True, text=True).stdout)
"""
ARCHITECTURE = """
import torch
found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
print(";".join("90a" if c == (9, 0) else f"{c[0]}{c[1]}" for c in sorted(found)))
"""
MICROTESTS = (
    "nvcc -std=c++17 -gencode arch=compute_90a,code=sm_90a -Icsrc tests/cuda/microtests.cu csrc/cuda/tensor_map.cu "
    '-o "{out}/microtests" && "{out}/microtests"'
)
SANITIZED = "(memory_bound and float16) or hopper_types or hopper_resident"


def sanitizer(tool: str) -> list[str]:
    """compute-sanitizer over our kernels alone: PyTorch's are not ours to check."""
    help_text = ""
    if shutil.which("compute-sanitizer"):
        asked = subprocess.run(["compute-sanitizer", "--help"], capture_output=True, text=True, check=False)
        help_text = asked.stdout
    option = "--kernel-name" if "--kernel-name " in help_text else "--kernel-regex"
    return ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", option, "kns=fastcnn",
            *pytest("-m", "gpu", "-x", "tests/cuda/test_memory_bound.py", "tests/cuda/test_conv2d.py", "-k", SANITIZED),
            ]  # fmt: skip


def steps() -> list[Step]:
    """Every step, in order."""
    rehearse = [PYTHON, str(ROOT / "tests" / "cuda" / "rehearse.py")]
    emulated = ("-m", "emulated and not slow", "-p", "no:cacheprovider")
    ledger, networks = str(OUT / "ledger.json"), "resnet50,googlenet,vgg16"
    bench = ("bench", "--device", "cuda", "--match", "float16")
    quick = fastcnn("bench", "--device", "cpu", "--kinds", "network", "--networks", "lenet5", "--seconds", "0.05",
                    "--contenders", "fastcnn,eager", "--output", str(OUT / "networks.json"))  # fmt: skip
    # Without PyTorch's allocator, which hands out parts of larger blocks, every tensor has bounds of its own.
    bounds = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    build = python("setup.py", "build_ext", "--inplace")
    verify = fastcnn("verify", "--jobs", "6", "--output", ledger)
    layers = fastcnn("tune", "--device", "cuda", "--networks", "resnet50", "--batches", "1,32,128", "--dtypes",
                     "float16", "--backends", "cuda", "--output", str(OUT))  # fmt: skip
    return [
        Step("versions", 1, 12, python("-c", VERSIONS.replace("{gpu}", "True")),
             python("-c", VERSIONS.replace("{gpu}", "False"))),
        Step("build", 1, 90, build, build, beside=True,
             environment={"FASTCNN_CUDA": "0" if REHEARSE else "1"}),
        Step("microtests", 1, 30, ["bash", "-c", MICROTESTS.format(out=OUT)],
             pytest("tests/cuda/test_microtests.py", "-k", "answered", *emulated)),
        Step("cuda parity", 1, 60, pytest("-m", "gpu", "tests/cuda", "-k", "not triton", processes=8),
             pytest("tests/cuda/test_conv2d.py", "-k", "hopper_types", *emulated), after="build"),
        Step("triton parity", 1, 60, pytest("-m", "gpu", "tests/triton", "tests/cuda/test_device.py", "-k", "triton",
                                            processes=12),
             pytest("tests/triton/test_launch.py", "-k", "unverified", "-p", "no:cacheprovider")),
        Step("verify", 1, 60, [*verify, "--minutes", "0.9"], [*rehearse, "verify", ledger]),
        Step("layers", 1, 100, [*layers, "--seconds", "0.01", "--minutes", "1.5"], [*rehearse, "layers", str(OUT)]),
        Step("networks", 1, 60, fastcnn(*bench, "--batches", "1,32,128", "--kinds", "network", "--networks", networks,
                                        "--contenders", "fastcnn,eager,cudnn_graph", "--seconds", "0.05", "--output",
                                        str(OUT / "networks.json")), quick),
        Step("memcheck", 1, 45, sanitizer("memcheck"),
             pytest("tests/emulator/test_mutants.py", "-k", "fits_the_sources"), environment=bounds),
        Step("build again", 2, 60, build, build, environment={"FASTCNN_CUDA": "0" if REHEARSE else "1"}),
        Step("what failed", 2, 40, pytest("-m", "gpu", "--last-failed", "--last-failed-no-failures", "none",
                                          "tests/cuda", "tests/triton", processes=8),
             pytest("tests/cuda/test_host_errors.py", "-k", "13.0", "-p", "no:cacheprovider")),
        Step("verify on", 2, 45, [*verify, "--minutes", "0.7"], [*rehearse, "verify", ledger]),
        Step("weak spots", 2, 50, python("-m", "benchmarks.weak_spots", "--output", str(OUT / "weak_spots.json")),
             python("-m", "benchmarks.weak_spots", "--device", "cpu", "--rehearse", "--output",
                    str(OUT / "weak_spots.json"))),
        Step("networks again", 2, 45, fastcnn(*bench, "--batches", "1,32,128", "--kinds", "network", "--networks",
                                              networks, "--contenders", "fastcnn,eager,cudnn_graph", "--seconds",
                                              "0.05", "--output", str(OUT / "networks-2.json")), quick),
        Step("operators", 2, 40, fastcnn(*bench, "--batches", "32", "--kinds", "op", "--networks", "alexnet,googlenet",
                                         "--contenders", "fastcnn,eager,cudnn", "--seconds", "0.05", "--output",
                                         str(OUT / "operators.json")), quick),
        Step("racecheck", 2, 30, sanitizer("racecheck"),
             pytest("tests/cuda/test_memory_bound.py", "-k", "add_relu", *emulated), environment=bounds),
        Step("consan", 2, 30, pytest("-m", "gpu", "tests/cuda/test_device.py", "-k",
                                     "every_kernel and triton and float16", processes=8),
             pytest("tests/triton/test_launch.py", "-k", "unverified", "-p", "no:cacheprovider"),
             environment={"TRITON_INSTRUMENTATION_MODE": "consan"}),
    ]  # fmt: skip


class Running:
    """A step under way: its process, in a group of its own, and its output's file."""

    def __init__(self, step: Step, limit: int, log: Path) -> None:
        self.step, self.limit, self.log, self.start = step, limit, log, time.monotonic()
        command = step.rehearsal if REHEARSE else step.command
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)} | step.environment
        print(f"== {step.name} (at most {limit} s): {' '.join(command)[:200]}", flush=True)
        self.file = log.open("wb")
        try:
            self.process: subprocess.Popen[bytes] | None = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=self.file, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:  # the program is not there
            self.file.write(str(error).encode())
            self.process = None

    def finish(self) -> Result:
        """Waits, up to the limit; kills what is left."""
        verdict = "FAILED (not found)"
        if self.process is not None:
            try:
                code = self.process.wait(max(0.1, self.limit - (time.monotonic() - self.start)))
                verdict = "passed" if code == 0 else f"FAILED (exit {code})"
            except subprocess.TimeoutExpired:
                verdict = f"TIMED OUT after {self.limit} s"
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # also what it started
            self.process.wait()
        self.file.close()
        seconds = time.monotonic() - self.start
        lines = self.log.read_text(errors="replace").splitlines()[-12:]
        print(*(line[:200] for line in lines), f"-- {verdict}: {self.step.name}, {seconds:.0f} s", sep="\n", flush=True)
        return Result(self.step.name, self.step.part, verdict, round(seconds, 1), self.limit)


def architecture() -> None:
    """Says which architecture to build, where nobody did: compiling for others would take the time of measuring."""
    if not os.environ.get("FASTCNN_CUDA_ARCHS") and not REHEARSE:
        found = subprocess.run(python("-c", ARCHITECTURE), capture_output=True, text=True, check=False)
        os.environ["FASTCNN_CUDA_ARCHS"] = found.stdout.strip()


def run(part: int, chosen: Sequence[str], results: list[Result]) -> None:
    """Runs a part's steps; `results` and the files grow as it goes."""
    begun = time.monotonic()
    deadline = begun + float(os.environ.get("BUDGET", PATIENCE * BUDGETS[part]))
    beside: dict[str, Running] = {}
    for i, step in enumerate(steps()):
        if step.part != part or (chosen and step.name.split()[0] not in chosen and step.name not in chosen):
            continue
        if step.after in beside:
            record(results, beside.pop(step.after).finish())
        left = deadline - time.monotonic()
        if left < LEAST:
            record(results, Result(step.name, part, f'not run: no time left; STEPS="{step.name}" runs it alone', 0, 0))
            continue
        running = Running(
            step, int(min(PATIENCE * step.limit, left)), OUT / f"{part}-{i:02}-{step.name.replace(' ', '-')}.txt"
        )
        if step.beside:
            beside[step.name] = running
        else:
            record(results, running.finish())
    for left_over in beside.values():
        record(results, left_over.finish())
    print(f"part {part}: {time.monotonic() - begun:.0f} s of {deadline - begun:.0f}")


def record(results: list[Result], result: Result) -> None:
    results.append(result)
    failed = [r.name for r in results if r.verdict != "passed"]
    lines = [f"{r.verdict}: {r.name}, {r.seconds:.0f} s of {r.limit}" for r in results]
    text = "\n".join([*lines, f"failed: {', '.join(failed) or 'nothing'}", ""])
    (OUT / "summary.txt").write_text(("REHEARSAL, nothing ran on a GPU\n" if REHEARSE else "") + text, "utf-8")
    (OUT / "steps.json").write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n", "utf-8")


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    chosen = os.environ.get("STEPS", "").split()
    names = {step.name for step in steps()} | {step.name.split()[0] for step in steps()}
    unknown = sorted(set(chosen) - names)
    if unknown:
        print(f"gpu: unknown step {unknown[0]}; there are: {', '.join(s.name for s in steps())}", file=sys.stderr)
        return 2
    architecture()
    results: list[Result] = []
    for part in [int(os.environ["PART"])] if os.environ.get("PART") else [1, 2]:
        run(part, chosen, results)
    print((OUT / "summary.txt").read_text("utf-8") if results else "nothing to do", f"everything is in {OUT}", sep="\n")
    return any(r.verdict != "passed" for r in results)


if __name__ == "__main__":
    sys.exit(main())
