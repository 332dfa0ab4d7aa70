import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "emulator"))
sys.path.insert(0, str(Path(__file__).parent))

SCHEDULES = [(order, lazy) for order in ("forward", "reverse", "random") for lazy in (False, True)]
RUNNERS = [pytest.param("emulated", marks=pytest.mark.emulated), pytest.param("gpu", marks=pytest.mark.gpu)]


@pytest.fixture(params=RUNNERS)
def runner(request):
    """Where the kernel runs: the emulator, threads in random order and asynchronous work late; or the GPU."""
    import harness

    if request.param == "gpu":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        return harness.Gpu()
    return harness.Emulated()


@pytest.fixture(params=SCHEDULES, ids=lambda s: f"{s[0]}-{'lazy' if s[1] else 'eager'}")
def every_schedule(request):
    """The emulator under each order of threads and both timings of asynchronous work."""
    import harness

    return harness.Emulated(*request.param)


@pytest.fixture
def hopper(runner):
    """A runner whose device has compute capability 9.0: the emulator, or such a GPU."""
    if runner.device == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the CUDA device is not a Hopper GPU")
    return runner


@pytest.fixture
def emulated_device(monkeypatch):
    """CPU tensors run by the CUDA candidates, on the emulator."""
    import harness

    from fastcnn.backends import cuda as cuda_backend
    from fastcnn.core.backend import use_backend
    from fastcnn.core.selector import SELECTORS

    runner = harness.Emulated()
    device = cuda_backend.Device("emulator", (9, 0), 4, 227 * 1024)
    memory = []

    def launch(device, function, *arguments):
        runner.emulator.configure(**runner.settings)
        with runner.emulator.any_memory():
            function(*arguments, 0)
        memory.append(function.__name__)

    def reason_against(kernel, problem, copies=False, products=None):
        return "out cannot be written in place" if problem.y_stride is None else None

    monkeypatch.setattr(cuda_backend, "kernels", lambda: runner.cuda)
    monkeypatch.setattr(cuda_backend, "device_of", lambda _: device)
    monkeypatch.setattr(cuda_backend, "launch", launch)
    monkeypatch.setattr(cuda_backend, "reason_against", reason_against)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for operator in SELECTORS.values():
        monkeypatch.setattr(operator, "_runners", {})  # runners made here must not outlive the emulated device
    with use_backend("cuda"):
        yield memory


@pytest.fixture(autouse=True)
def working_context(request):
    """Ends a process whose CUDA context an earlier test broke: all tests after it would fail without a fault.

    Under pytest-xdist a new worker goes on with the next test; this one is reported as the crash of the old.
    """
    if request.node.get_closest_marker("gpu") and torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            print(f"an earlier test broke the CUDA context: {error}", file=sys.__stderr__, flush=True)
            os._exit(3)
