"""Compiling kernels for GPUs that are not there, and reading what the compiler made of them.

Triton compiles for any architecture, and brings NVIDIA's disassembler: registers, spills, shared memory, the
tensor-core instructions and the width of the memory accesses are all read from the cubin, with no GPU.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import triton

from fastcnn.ops.triton_common import TARGETS, Launch, ceil_div

TENSOR_CORE = {"HMMA": "mma", "HGMMA": "wgmma", "UTCHMMA": "tcgen05", "UTCQMMA": "tcgen05"}
REGISTERS_PER_SM = 64 << 10
MAX_WARPS_PER_SM = 64


@dataclasses.dataclass(frozen=True)
class Facts:
    """One compiled kernel. `stack_bytes` above 0 means that registers spilled to local memory."""

    kernel: str
    arch: int
    num_warps: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    instructions: int
    tensor_core: dict[str, int]
    load_bits: int  # widest global load, TMA apart
    store_bits: int
    tma: int
    async_copies: int

    @property
    def blocks_per_sm(self) -> int:
        """Resident blocks, by registers (allocated 8 a thread at a time), shared memory and warps."""
        target = TARGETS.get(self.arch, TARGETS[90])
        registers = ceil_div(max(self.registers, 16), 8) * 8 * 32 * self.num_warps
        limits = [REGISTERS_PER_SM // registers, MAX_WARPS_PER_SM // self.num_warps, 32]
        # The system keeps 1 KiB of shared memory for each block.
        limits.append(target.shared_per_sm // (self.shared_bytes + 1024))
        return min(limits)

    @property
    def occupancy(self) -> float:
        return self.blocks_per_sm * self.num_warps / MAX_WARPS_PER_SM


def _tool(name: str) -> str:
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _cache_folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return root / "fastcnn" / "triton_facts"


def _disassemble(cubin: bytes) -> tuple[str, str]:
    """(resource usage, SASS) of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return tuple(
            subprocess.run([_tool(tool), *flags, file.name], check=True, capture_output=True, text=True).stdout
            for tool, flags in (("cuobjdump", ["--dump-resource-usage"]), ("nvdisasm", ["-c"]))
        )  # type: ignore[return-value]


def _widest(sass: str, instruction: str) -> int:
    """Widest access in bits among e.g. LDG.E.128, LDG.E.64.CONSTANT, LDG.E (32), LDG.E.U16 (16)."""
    widths = [0]
    for suffix in re.findall(rf"\b{instruction}\.E((?:\.\w+)*)", sass):
        sized = re.search(r"\.[US]?(8|16|64|128|256)\b", suffix)
        widths.append(int(sized[1]) if sized else 32)
    return max(widths)


def facts(launch: Launch, arch: int, aligned: bool = True) -> Facts:
    """Compile a launch for an architecture and read its code. Cached by Triton's hash of source and options."""
    compiled = launch.compile(arch, aligned)
    cached = _cache_folder() / f"{compiled.hash}.json"
    fields = {field.name for field in dataclasses.fields(Facts)}
    if cached.exists():
        known = json.loads(cached.read_text())
        if known.keys() == fields:
            return Facts(**known)
    usage, sass = _disassemble(compiled.asm["cubin"])
    opcodes = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", sass, re.MULTILINE)
    found = Facts(
        kernel=compiled.name,
        arch=arch,
        num_warps=launch.options["num_warps"],
        registers=int(re.search(r"REG:(\d+)", usage)[1]),  # type: ignore[index]
        stack_bytes=int(re.search(r"STACK:(\d+)", usage)[1]) + int(re.search(r"LOCAL:(\d+)", usage)[1]),  # type: ignore[index]
        shared_bytes=compiled.metadata.shared,
        instructions=len(opcodes),
        tensor_core={unit: opcodes.count(name) for name, unit in TENSOR_CORE.items() if name in opcodes},
        load_bits=max(_widest(sass, "LDG"), 128 * bool(re.search(r"LDGSTS\.E\.\S*128", sass))),
        store_bits=_widest(sass, "STG"),
        tma=opcodes.count("UTMALDG"),
        async_copies=opcodes.count("LDGSTS"),
    )
    cached.parent.mkdir(parents=True, exist_ok=True)
    scratch = cached.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(dataclasses.asdict(found)))
    scratch.replace(cached)
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the compile table: a named case, an architecture, and what came of it."""

    case: str
    arch: int
    facts: Facts | None
    error: str = ""


def _compile_case(name: str, launch: Launch, arch: int) -> Row:
    try:
        return Row(name, arch, facts(launch, arch))
    except Exception as error:  # a kernel that does not compile is a row of the table, not the end of it
        return Row(name, arch, None, f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:200]}")


# What forked workers compile; launches hold functions and cannot be sent to them.
_cases: list[tuple[str, Launch, int]] = []


def _compile_index(index: int) -> Row:
    return _compile_case(*_cases[index])


def compile_table(
    archs: Iterable[int] = (80, 90, 100), *, every: bool = False, only: str = "", workers: int | None = None
) -> list[Row]:
    """Compile the default choices of all kernels, or `every` configuration that can be chosen, without a GPU.

    only: a substring that a case's name must have. workers: processes, as many as CPUs unless given.
    """
    from fastcnn.ops.triton_cases import cases

    global _cases
    _cases = [(name, launch, arch) for arch in archs for name, launch in cases(arch, every=every) if only in name]
    workers = min(workers or os.cpu_count() or 1, max(1, len(_cases)))
    if workers == 1:
        return [_compile_case(*case) for case in _cases]
    # Children are forked: they compile and disassemble, and never touch a GPU.
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(_compile_index, range(len(_cases))))


COLUMNS = ("kernel", "sm", "registers", "spilled", "shared KiB", "instructions", "tensor cores", "load/store bits",
           "TMA", "blocks/SM", "occupancy")  # fmt: skip


def table_rows(rows: Iterable[Row]) -> Iterator[tuple[str, ...]]:
    """The rows as text, under COLUMNS."""
    for row in rows:
        found = row.facts
        if found is None:
            yield row.case, str(row.arch), row.error, *[""] * (len(COLUMNS) - 3)
            continue
        yield (
            row.case,
            str(row.arch),
            str(found.registers),
            f"{found.stack_bytes} B" if found.stack_bytes else "no",
            f"{found.shared_bytes / 1024:.1f}",
            str(found.instructions),
            ", ".join(f"{count} {unit}" for unit, count in found.tensor_core.items()) or "none",
            f"{found.load_bits}/{found.store_bits}",
            str(found.tma),
            str(found.blocks_per_sm),
            f"{found.occupancy:.0%}",
        )
