"""verify's worker with the emulator in the GPU's place, and with a fault in one kernel if one is named:
python emulated_worker.py [KERNEL PLAN FAULT]. A slow kernel, and all other timing, is the wall clock's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "emulator")]

import harness  # noqa: E402
import torch  # noqa: E402

from fastcnn.backends import cuda as cuda_backend  # noqa: E402
from fastcnn.core import native  # noqa: E402
from fastcnn.core.selector import SELECTORS  # noqa: E402
from fastcnn.workbench.verify import worker  # noqa: E402

DEVICE = cuda_backend.Device("the emulator", (9, 0), 4, 227 * 1024)


class Emulated(worker.Setting):
    """The emulator as a device of its own name: what is entered for it speaks for no GPU."""

    clock = "cpu"

    def describe(self) -> dict[str, str]:
        return {"architecture": "emulated", "device": "the emulator", "driver": "none", "version": "0"}

    def synchronise(self) -> None:
        pass

    def source(self, backend: str) -> str:
        return "emulated"


def install() -> None:
    """Sends what would be launched on a GPU to the emulator."""
    runner = harness.Emulated(order="forward", lazy=True)

    def launch(device: torch.device, function: Any, *arguments: Any) -> None:
        runner.emulator.configure(**runner.settings)
        with runner.emulator.any_memory():
            function(*arguments, 0)

    def reason_against(kernel: str, problem: Any, copies: bool = False, products: str | None = None) -> str | None:
        if not copies and problem.dtype not in native.DTYPES:
            return f"{problem.dtype}"
        return "out cannot be written in place" if problem.y_stride is None else None

    for selector in SELECTORS.values():
        selector.races = selector.cases[:2]  # real sizes would take hours
    cuda_backend.kernels = lambda: runner.cuda
    cuda_backend.device_of = lambda _: DEVICE
    cuda_backend.launch = launch
    cuda_backend.reason_against = reason_against


def seed(kernel: str, plan: str, fault: str) -> None:
    """Puts a fault into one plan of a kernel."""
    found = worker.plans
    broken = SimpleNamespace(context=False)

    def plans(operator: Any, candidate: Any, problem: Any) -> dict[str, Any]:
        mine = found(operator, candidate, problem)
        if worker.kernel_name(operator, candidate) == kernel:
            return {name: with_fault(prepare, name == plan) for name, prepare in mine.items()}
        return mine

    def with_fault(prepare: Any, faulty: bool) -> Any:
        def prepared() -> Any:
            run = prepare()

            def call(*tensors: Any) -> torch.Tensor:
                if broken.context:
                    raise RuntimeError("CUDA error: an illegal memory access was encountered")
                if faulty and fault in BEFORE:
                    BEFORE[fault](broken)
                y = run(*tensors)
                if faulty and fault in AFTER and y.numel():
                    AFTER[fault](y, tensors)
                return y

            return call

        return prepared

    worker.plans = plans


def illegal_address(broken: SimpleNamespace) -> None:
    """As CUDA has it: this launch fails, and every later one in the process."""
    broken.context = True
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def beside(y: torch.Tensor) -> torch.Tensor:
    """The element after the last."""
    end = sum((n - 1) * s for n, s in zip(y.shape, y.stride(), strict=True)) + y.storage_offset()
    return torch.as_strided(y, (1,), (1,), end + 1)


BEFORE = {
    "hang": lambda broken: time.sleep(1000),
    "crash": lambda broken: os.kill(os.getpid(), signal.SIGKILL),
    "wild pointer": lambda broken: ctypes.memset(16, 0, 8),
    "illegal address": illegal_address,
    "slow": lambda broken: time.sleep(0.05),
}
AFTER = {
    "wrong tile": lambda y, tensors: y.flatten(-2)[-1, -8:, -4:].mul_(1.3),
    "one wrong value": lambda y, tensors: y[-1, -1].view(-1)[-1:].add_(0.5),
    "nan left": lambda y, tensors: y[-1, :, -1].fill_(torch.nan),
    "writes beside": lambda y, tensors: beside(y).fill_(0),
    "changes its input": lambda y, tensors: tensors[0][(0,) * tensors[0].dim()].zero_(),
}

if __name__ == "__main__":
    install()
    if len(sys.argv) > 1:
        seed(*sys.argv[1:])
    worker.serve(Emulated(torch.device("cpu")))
