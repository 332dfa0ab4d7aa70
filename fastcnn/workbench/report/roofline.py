"""What the device could do: its ceilings, measured before a run, and the floor that they set for a case."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from fastcnn.workbench.report.cases import DTYPES, Case

MIB = 1 << 20


@dataclass(frozen=True)
class Ceilings:
    """flops: FLOP/s of the best matrix product or convolution by dtype; bandwidth: bytes/s by footprint in bytes.

    The bandwidth is that of a copy, read and write counted, whose source and target together have the footprint:
    a small one stays in a cache.
    """

    flops: dict[str, float] = field(default_factory=dict)
    bandwidth: dict[int, float] = field(default_factory=dict)

    def bytes_per_second(self, footprint: int) -> float:
        """The bandwidth for data of that size: of the largest measured size not above it, so never too low."""
        below = [size for size in self.bandwidth if size <= footprint]
        return self.bandwidth[max(below) if below else min(self.bandwidth)]

    def to_json(self) -> dict[str, Any]:
        return {"flops": self.flops, "bandwidth": {str(k): v for k, v in self.bandwidth.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Ceilings:
        return cls(dict(data["flops"]), {int(k): v for k, v in data["bandwidth"].items()})


def measure(device: str = "cpu", dtypes: tuple[str, ...] = ("float32",), seconds: float = 0.15) -> Ceilings:
    """Measures the ceilings; each figure is the best of many repetitions."""
    largest = 1024 if device == "cuda" else 256
    sizes = (MIB // 4, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB)
    measured = {size: _copy_rate(size, device, seconds) for size in sizes if size <= largest * MIB}
    # What fits into less memory is at least as fast as what needs more.
    bandwidth = {size: max(rate for s, rate in measured.items() if s >= size) for size in measured}
    return Ceilings({dtype: _product_rate(dtype, device, seconds) for dtype in dtypes}, bandwidth)


def _best(run: Callable[[], Any], device: str, seconds: float) -> float:
    def once() -> float:
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    best, end = once(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, once())
    return best


def _copy_rate(footprint: int, device: str, seconds: float) -> float:
    source = torch.ones(footprint // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    threads = torch.get_num_threads()
    best = _best(lambda: target.copy_(source), device, seconds)
    if device == "cpu" and threads > 1:  # a small copy is faster on one thread than two can be started
        torch.set_num_threads(1)
        try:
            best = min(best, _best(lambda: target.copy_(source), device, seconds))
        finally:
            torch.set_num_threads(threads)
    return footprint / best


def _product_rate(dtype: str, device: str, seconds: float) -> float:
    n = 8192 if device == "cuda" else 1024
    a = torch.randn(n, n, device=device).to(DTYPES[dtype])
    x = torch.randn(1, 256, 56, 56, device=device).to(DTYPES[dtype]).contiguous(memory_format=torch.channels_last)
    w = torch.randn(256, 256, 1, 1, device=device).to(DTYPES[dtype]).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        product = 2 * n**3 / _best(lambda: a @ a, device, 2 * seconds)
        convolution = 2 * 256 * 256 * 56 * 56 / _best(lambda: torch.conv2d(x, w), device, 2 * seconds)
    return max(product, convolution)


def floor_seconds(case: Case, ceilings: Ceilings) -> float:
    """The least time for the case: for each layer the larger of its FLOPs and its bytes over the ceiling.

    Bytes count at the bandwidth of the cache or memory that holds them: weights by all weights of the case,
    activations by those of their layer. FLOPs are those of the direct algorithm: Winograd's needs fewer, so that
    a convolution may pass its floor.
    """
    layers = case.work
    weights_rate = ceilings.bytes_per_second(sum(layer.weight_bytes for layer in layers))
    total = 0.0
    for layer in layers:
        moving = layer.weight_bytes / weights_rate
        moving += layer.activation_bytes / ceilings.bytes_per_second(layer.activation_bytes)
        total += max(layer.flops / ceilings.flops[case.dtype], moving)
    return total
