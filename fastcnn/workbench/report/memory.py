"""Memory that a network holds while it runs: measured in a process of its own, one a contender.

python -m fastcnn.workbench.report.memory NETWORK BATCH CONTENDER THREADS prints bytes.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastcnn.workbench.report.cases import Case
from fastcnn.workbench.report.contenders import CONTENDERS


def measure(case: Case, contender: str, threads: int) -> int | None:
    """Peak bytes while the network runs, less what the process held before it loaded one; None where unknown."""
    if case.device != "cpu" or not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", __name__, case.subject, str(case.batch), contender, str(threads)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = re.search(r"^bytes (\d+)$", done.stdout, re.MULTILINE)
    return int(found.group(1)) if found else None


def during(run: Callable[[], Any]) -> int | None:
    """Peak bytes that a call holds beyond what the process held before it; None where unknown."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    run()  # whatever a first call allocates for good
    _settle()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    run()
    return max(_status("VmHWM") - before, 0)


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    assert found is not None
    return int(found.group(1)) * 1024


def _prepare(network: str, batch: int, contender: str) -> Any:
    run = CONTENDERS[contender].prepare(Case("network", network, network, batch).build())
    for _ in range(3):  # the first calls of an optimized network are compared with the given one
        run()
    return run


def _settle() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    import torch

    network, batch, contender, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    with torch.no_grad():
        # A small network first: the engine's code and its converter's are loaded and do not count.
        _prepare("lenet5", 1, contender)
        _settle()
        before = _status("VmRSS")
        run = _prepare(network, int(batch), contender)
        _settle()
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
        run()
        run()
    print(f"bytes {max(_status('VmHWM') - before, 0)}")


if __name__ == "__main__":
    main()
