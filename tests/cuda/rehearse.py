"""The steps of `make gpu` that run kernels, on the emulator: python rehearse.py verify LEDGER | layers FOLDER.

A few kernels and layers, small ones: it shows that the way from kernel to file is whole, in minutes, not how fast
anything is.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

import emulated_worker  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402

from fastcnn.workbench.report import timing  # noqa: E402
from fastcnn.workbench.report.cases import Call, Case  # noqa: E402
from fastcnn.workbench.tune import gpu as tune_gpu  # noqa: E402
from fastcnn.workbench.verify import kernels  # noqa: E402

KERNELS = ("add_relu.cuda", "conv2d.cuda.conv2d_sm90_resident")
LAYERS = ((64, 8, 64, 3), (96, 5, 136, 1))  # channels, size, output channels, filter


def verify(output: str) -> int:
    worker = (sys.executable, str(HERE / "emulated_worker.py"))
    failed = 0
    for only in KERNELS:
        report = kernels.verify(Path(output), kernels.Options(backends=("cuda",), only=only, jobs=1, worker=worker))
        print(*kernels.summary(report), sep="\n")
        failed += len(report.failed)
    return failed


def layers(output: str) -> int:
    emulated_worker.install()
    cases = []
    for C, size, K, R in LAYERS:
        shapes = (("input", (1, C, size, size)), ("weight", (K, C, R, R)), ("bias", (K,)))
        call = Call("conv2d", shapes, (("padding", R // 2), ("activation", "relu")))
        cases.append((Case("op", "conv2d", f"{R}x{R}", batch=1, dtype="float16", call=call), False))
    tune_gpu.tune(
        Console(), cases, ["cuda"], Path(output) / "emulator.json", {"device": "the emulator"}, timing.QUICK, most=4
    )
    return 0


if __name__ == "__main__":
    torch.backends.cudnn.allow_tf32 = False
    sys.exit({"verify": verify, "layers": layers}[sys.argv[1]](sys.argv[2]) != 0)
