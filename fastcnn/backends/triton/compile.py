"""Compiling kernels for GPUs that are not there, and reading what the compiler made of them.

Triton compiles for any architecture, and brings NVIDIA's disassembler: registers, spills, shared memory, the
tensor-core instructions and the width of the memory accesses are all read from the cubin, with no GPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import triton

from fastcnn.backends.triton.common import Launch
from fastcnn.backends.triton.target import TARGETS, ceil_div

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
    code: str  # hash of the machine code

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
        known = json.loads(cached.read_text("utf-8"))
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
        code=hashlib.sha256(sass.encode()).hexdigest()[:12],
    )
    cached.parent.mkdir(parents=True, exist_ok=True)
    scratch = cached.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(dataclasses.asdict(found)))
    scratch.replace(cached)
    return found
