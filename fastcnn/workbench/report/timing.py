"""How a call is timed: in interleaved blocks, each after a pause and a warm-up.

A machine drifts (clocks, neighbours), so contenders take turns: block 1 of each, then block 2 of each, in rotated
order. The pause lets the threads of the engine before go to sleep: PyTorch's and ONNX Runtime's spin for a while
after their work, and would slow down whoever comes next.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Run = Callable[[], Any]


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds a contender, in how many blocks, how many samples at least."""

    seconds: float = 2.0
    blocks: int = 5
    least_samples: int = 10
    pause: float = 0.1
    warm_up: float = 0.05


QUICK = Effort(seconds=0.3, blocks=3, least_samples=3, pause=0.02, warm_up=0.01)
FULL = Effort()


@dataclass
class Samples:
    """Seconds a call; each sample is the mean of `iterations` calls made in a row."""

    iterations: int = 1
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def quantile(self, q: float) -> float:
        """The linearly interpolated quantile."""
        ordered = sorted(self.seconds)
        position = q * (len(ordered) - 1)
        low = math.floor(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


# One sample must last this long: the clock's own cost is then below a thousandth.
SHORTEST_SAMPLE = 1e-3


def interleave(runs: Mapping[str, Run], effort: Effort = FULL, device: str = "cpu") -> dict[str, Samples]:
    """Times every call in `runs`, taking turns."""
    clock = _gpu_clock() if device == "cuda" else _cpu_clock
    samples: dict[str, Samples] = {}
    counts: dict[str, int] = {}
    for name, run in runs.items():
        clock(run, 1)
        once = min(clock(run, 1) for _ in range(2))
        # On a GPU each call starts from a flushed cache, so that calls cannot be put in a row.
        iterations = 1 if device == "cuda" else max(1, math.ceil(SHORTEST_SAMPLE / max(once, 1e-7)))
        samples[name] = Samples(iterations)
        wanted = max(effort.least_samples, min(1000, int(effort.seconds / max(once * iterations, 1e-7))))
        counts[name] = math.ceil(wanted / effort.blocks)
    names = list(runs)
    for block in range(effort.blocks):
        turn = block % len(names)
        for name in names[turn:] + names[:turn]:
            run, mine = runs[name], samples[name]
            time.sleep(effort.pause)
            start = time.perf_counter()
            run()
            while time.perf_counter() - start < effort.warm_up:
                run()
            mine.seconds += [clock(run, mine.iterations) for _ in range(counts[name])]
    return samples


def _cpu_clock(run: Run, iterations: int) -> float:
    start = time.perf_counter()
    for _ in range(iterations):
        run()
    return (time.perf_counter() - start) / iterations


def _gpu_clock() -> Callable[[Run, int], float]:
    """CUDA events around each call, after a write that evicts the L2 cache. Not run on hardware yet."""
    size = 4 * torch.cuda.get_device_properties(0).L2_cache_size  # type: ignore[attr-defined]
    evictor = torch.empty(max(size, 1 << 28), dtype=torch.int8, device="cuda")

    def clock(run: Run, iterations: int) -> float:
        total = 0.0
        for _ in range(iterations):
            evictor.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            total += start.elapsed_time(end) * 1e-3
        return total / iterations

    return clock
