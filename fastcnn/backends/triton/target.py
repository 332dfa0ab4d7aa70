"""What Triton kernels run on: GPUs as compiler and cost model see them, or the interpreter. Imports no triton."""

from __future__ import annotations

import dataclasses
import os

import torch

# Read once, as triton reads it at its import.
INTERPRETING = os.environ.get("TRITON_INTERPRET", "0") == "1"

LAUNCH_SECONDS = 2.5e-6  # a kernel's start and end on a stream


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclasses.dataclass(frozen=True)
class Target:
    """A GPU as compiler and cost model see it. Peaks are dense, in FLOP/s and B/s, from the vendor's tables."""

    name: str
    arch: int
    sms: int
    shared_per_sm: int
    shared_per_block: int
    dram_bytes: float
    l2_bytes: float
    half_flops: float
    tf32_flops: float
    fp32_flops: float


TARGETS = {
    75: Target("T4", 75, 40, 64 << 10, 64 << 10, 0.32e12, 1.3e12, 65e12, 8.1e12, 8.1e12),
    80: Target("A100", 80, 108, 164 << 10, 163 << 10, 2.0e12, 5.0e12, 312e12, 156e12, 19.5e12),
    87: Target("Jetson AGX Orin", 87, 16, 164 << 10, 163 << 10, 0.2e12, 1.0e12, 42e12, 21e12, 5.3e12),
    90: Target("H100", 90, 132, 228 << 10, 227 << 10, 3.35e12, 7.0e12, 989e12, 495e12, 67e12),
    100: Target("B200", 100, 148, 228 << 10, 227 << 10, 8.0e12, 10.0e12, 2250e12, 1125e12, 75e12),
    110: Target("Jetson T5000", 110, 20, 228 << 10, 227 << 10, 0.27e12, 2.0e12, 258e12, 129e12, 8e12),
    120: Target("RTX 5090", 120, 170, 100 << 10, 99 << 10, 1.79e12, 4.0e12, 419e12, 105e12, 105e12),
}


def target_of(device: torch.device | str) -> Target:
    """The target whose code a device runs; an H100's where there is no GPU (interpreter, offline compiles)."""
    if torch.device(device).type != "cuda":
        return TARGETS[90]
    properties = torch.cuda.get_device_properties(device)
    arch = properties.major * 10 + properties.minor
    nearest = max((a for a in TARGETS if a <= arch), default=80)
    return dataclasses.replace(
        TARGETS[nearest],
        name=properties.name,
        arch=arch,
        sms=properties.multi_processor_count,
        shared_per_sm=properties.shared_memory_per_multiprocessor,
        shared_per_block=getattr(properties, "shared_memory_per_block_optin", TARGETS[nearest].shared_per_block),
    )
