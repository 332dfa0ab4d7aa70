"""A static estimate of a tiled GEMM's time, and the choice of its configuration.

No measurement goes in: peaks are the vendor's, the rest is counted. The estimate ranks configurations where
nothing has been tuned, and `explain` prints it, so that it can be held against a measurement later.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from fastcnn.backends.triton.target import LAUNCH_SECONDS, Target, ceil_div

TUNING = Path(__file__).parents[2] / "tuning"

FETCH_SECONDS = 0.8e-6  # one dependent load from L2 or memory, with its synchronisation
SHARED_BYTES_PER_SECOND = 128 * 1.7e9  # one SM's shared memory


@dataclasses.dataclass(frozen=True)
class Config:
    """A tile and how it is run. block_k is counted in bytes, so that one list serves all dtypes.

    spills: the precisions in which its registers spill ("half" for both 16-bit types, "tf32", or "tf32x3", which keeps
    both halves of the operands in registers besides), with the architecture ("tf32x3 sm_80") where it is one only.
    """

    block_m: int
    block_n: int
    block_k_bytes: int
    num_warps: int
    num_stages: int
    splits: int = 1
    descriptor: bool = False
    persistent: bool = False
    spills: tuple[str, ...] = ()

    def block_k(self, dtype: torch.dtype) -> int:
        return self.block_k_bytes // dtype.itemsize

    @property
    def shared_bytes(self) -> int:
        return self.num_stages * (self.block_m + self.block_n) * self.block_k_bytes

    def __str__(self) -> str:
        flags = "".join(
            [
                f" split {self.splits}" if self.splits > 1 else "",
                " descriptor" if self.descriptor else "",
                " persistent" if self.persistent else "",
            ]
        )
        tile = f"{self.block_m}x{self.block_n}x{self.block_k_bytes}B"
        return f"{tile} {self.num_warps} warps {self.num_stages} stages{flags}"


def _config(entry: dict[str, Any]) -> Config:
    return Config(**entry | {"spills": tuple(entry.get("spills", ()))})


@functools.cache
def configs(kernel: str) -> tuple[Config, ...]:
    """The candidates of tuning/triton.json for a kernel: every one of them compiles without spills."""
    table = json.loads((TUNING / "triton.json").read_text("utf-8"))
    return tuple(_config(entry) for entry in table[kernel])


def entry(config: Config) -> dict[str, Any]:
    """A configuration as tuning files have it."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "spills"}


def plan_key(config: Config) -> str:
    """A configuration as the ledger has it: into how many parts a sum is split is left out."""
    return f"{dataclasses.replace(config, splits=1)}{' split' if config.splits > 1 else ''}"


@dataclasses.dataclass(frozen=True)
class Gemm:
    """A convolution or linear layer as a cost model sees it: `taps` x C inner elements for M x K outputs."""

    dtype: torch.dtype
    M: int
    K: int
    C: int
    taps: int
    groups: int
    precision: str
    dram_bytes: int  # input, weights, residual and output, once each

    def steps(self, config: Config) -> int:
        return self.taps * ceil_div(self.C, config.block_k(self.dtype))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds, what bounds them, and how many waves of blocks the grid makes."""

    seconds: float
    bound: str
    blocks: int
    waves: float
    roofline_seconds: float

    def __str__(self) -> str:
        share = self.roofline_seconds / self.seconds
        return (
            f"predicted {self.seconds * 1e6:.1f} us, {self.bound}-bound, {self.blocks} blocks, "
            f"{self.waves:.2f} waves, {share:.0%} of the roofline (never measured)"
        )


def spills(config: Config, gemm: Gemm, target: Target) -> bool:
    """Whether a tile is known to spill in the problem's precision on the target, or on the one before it."""
    precision = gemm.precision if gemm.dtype == torch.float32 else "half"
    architecture = max(arch for arch in (80, 90, 100) if arch <= max(80, target.arch))
    return bool({precision, f"{precision} sm_{architecture}"} & set(config.spills))


def peak_flops(target: Target, dtype: torch.dtype, precision: str) -> float:
    if dtype != torch.float32:
        return target.half_flops
    return {"tf32": target.tf32_flops, "tf32x3": target.tf32_flops / 3, "ieee": target.fp32_flops}[precision]


def blocks_per_sm(target: Target, config: Config) -> int:
    """Resident blocks by shared memory and by a guess at registers: the accumulator and 72 others a thread."""
    threads = 32 * config.num_warps
    accumulator = config.block_m * config.block_n // threads
    registers = min(255, accumulator + 72) * threads
    by_shared = target.shared_per_sm // (config.shared_bytes + 1024)
    return max(1, min(by_shared, (64 << 10) // registers, 64 // config.num_warps))


def _shared_bytes_read(target: Target, config: Config, dtype: torch.dtype) -> int:
    """Shared memory read by the tensor cores in one step: wgmma reads tiles, mma.sync each warp's own parts."""
    if target.arch >= 90 and target.arch < 120 and config.block_m >= 64:
        reads = ceil_div(config.block_m, 64) * (min(64, config.block_m) + config.block_n)
    else:
        across = 2 if config.num_warps >= 4 and config.block_n >= 32 else 1
        down = config.num_warps // across
        reads = config.num_warps * (max(16, config.block_m // down) + config.block_n // across)
    return reads * config.block_k_bytes


def estimate(target: Target, gemm: Gemm, config: Config) -> Estimate:
    """Waves of blocks, each as slow as the slowest of tensor cores, shared memory, L2 and load latency."""
    blocks = ceil_div(gemm.M, config.block_m) * ceil_div(gemm.K, config.block_n) * gemm.groups * config.splits
    steps = ceil_div(gemm.steps(config), config.splits)
    resident = min(blocks_per_sm(target, config), max(1, ceil_div(blocks, target.sms)))
    tile_bytes = config.block_m * config.block_n * gemm.dtype.itemsize
    peak = peak_flops(target, gemm.dtype, gemm.precision) / target.sms
    times = {
        "compute": 2 * config.block_m * config.block_n * config.block_k(gemm.dtype) * steps / peak,
        "shared memory": _shared_bytes_read(target, config, gemm.dtype) * steps / SHARED_BYTES_PER_SECOND,
        "L2": ((config.block_m + config.block_n) * config.block_k_bytes * steps + tile_bytes)
        / (target.l2_bytes / target.sms),
    }  # fmt: skip
    slowest = max(times, key=times.__getitem__)
    # The pipeline fills once, or once a tap where 8 warps keep the loop over taps from being flattened.
    fills = gemm.taps if config.num_warps > 4 else 1
    latency = FETCH_SECONDS * (1 + fills + steps / max(1, config.num_stages - 1))
    waves = blocks / (target.sms * resident)
    # A full last wave costs what it costs; a ragged one at least as long as one block alone.
    tile_seconds = max(resident * times[slowest], latency)
    seconds = max(1, ceil_div(blocks, target.sms * resident)) * tile_seconds
    bound = slowest if resident * times[slowest] >= latency else "latency"
    dram = gemm.dram_bytes / target.dram_bytes
    if dram > seconds:
        seconds, bound = dram, "memory"
    seconds += LAUNCH_SECONDS
    if config.splits > 1:
        partials = 4 * gemm.M * gemm.K * gemm.groups * config.splits
        seconds += LAUNCH_SECONDS + 2 * partials / target.l2_bytes
    flops = 2 * gemm.M * gemm.K * gemm.C * gemm.taps * gemm.groups
    roofline = max(flops / peak_flops(target, gemm.dtype, gemm.precision), dram)
    return Estimate(seconds, bound, blocks, waves, roofline)


def ranked(target: Target, gemm: Gemm, candidates: Iterable[Config]) -> list[Config]:
    """Those that fit the target's shared memory, the least estimate first, of equals the smallest tile."""
    fitting = [c for c in candidates if c.shared_bytes <= target.shared_per_block]
    return sorted(fitting, key=lambda c: (estimate(target, gemm, c).seconds, c.block_m * c.block_n))


def choose(target: Target, gemm: Gemm, candidates: Iterable[Config]) -> Config:
    """The first of `ranked`."""
    return ranked(target, gemm, candidates)[0]
