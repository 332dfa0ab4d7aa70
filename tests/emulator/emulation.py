"""Builds the CUDA kernels against the emulator (csrc/emulator) and runs them on CPU tensors.

The result is cached by the preprocessed text of each source, so a second run compiles nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pybind11
import torch

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
CACHE = ROOT / "build" / "emulator"
COMPILER = os.environ.get("CXX", "g++")

ORDERS = {"forward": 0, "reverse": 1, "random": 2}

COMMON = [
    "-std=c++17",
    "-fPIC",
    "-DFASTCNN_EMULATED",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-fno-strict-aliasing",
]
# What is written is what runs: no fused multiply-add that the kernel did not ask for.
RUNTIME = ("-O2", "-march=native", "-ffp-contract=off", "-fvisibility=hidden")
# -fsanitize=thread makes every load and store a call, which the emulator's checker answers (not libtsan).
KERNEL = ("-O1", "-march=native", "-ffp-contract=off", "-fsanitize=thread", "-fvisibility=hidden", "-x", "c++")
BINDINGS = ("-O1", "-fvisibility=hidden")


def kernel_sources() -> list[Path]:
    return sorted(CSRC.glob("cuda/*.cu")) + sorted(CSRC.glob("ops/*/*.cu"))


def runtime_sources() -> list[Path]:
    return sorted(CSRC.glob("emulator/*.cc"))


@cache
def _compile(source: Path, flags: tuple[str, ...], include: tuple[Path, ...]) -> Path:
    """Compiles to an object file; `include` folders come first, so that a changed copy of a header wins."""
    command = [COMPILER, *COMMON, *flags, *(f"-I{folder}" for folder in include)]
    text = subprocess.run([*command, "-E", "-P", source], check=True, capture_output=True).stdout
    key = hashlib.sha256(b"\0".join([text, " ".join([COMPILER, *COMMON, *flags]).encode()])).hexdigest()[:24]
    target = CACHE / f"{source.stem}-{key}.o"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        result = subprocess.run([*command, "-c", source, "-o", partial], capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{source.name} does not compile for the emulator:\n{result.stderr}")
        partial.replace(target)
    return target


def link(objects: list[Path], name: str) -> Path:
    key = hashlib.sha256("\0".join(o.name for o in objects).encode()).hexdigest()[:16]
    folder = CACHE / key
    target = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        subprocess.run([COMPILER, "-shared", *objects, "-o", partial], check=True)
        partial.replace(target)
    return target


def build(kernels: list[Path] | None = None, overlay: Path | None = None) -> Path:
    """The extension module `_emulated` with the given kernels (all of them by default).

    overlay: a folder of changed copies of files under csrc, at the same relative paths.
    """
    bindings_include = (CSRC, Path(pybind11.get_include()), Path(sysconfig.get_path("include")))
    jobs = [(CSRC / "python" / "bind_cuda.cpp", BINDINGS, bindings_include)]
    jobs += [(source, RUNTIME, (CSRC,)) for source in runtime_sources()]
    for source in kernel_sources() if kernels is None else kernels:
        include: tuple[Path, ...] = (CSRC,)
        # A change stays within its operator's folder. Changed kernels run in float16 alone: the other types' files
        # stay as they are, and come from the cache.
        if overlay is not None and not source.stem.endswith(("_float32_cuda", "_bfloat16_cuda")):
            changed = overlay / source.relative_to(CSRC)
            if changed.parent.exists():
                source, include = (changed if changed.exists() else source), (overlay, CSRC)
        jobs.append((source, KERNEL, include))
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 4)) as pool:
        objects = list(pool.map(lambda job: _compile(*job), jobs))
    return link(objects, "_emulated")


class Emulator:
    """The emulated kernels: `.cuda` is what `_C.cuda` is on a GPU machine."""

    def __init__(self, path: Path) -> None:
        from fastcnn import _C  # noqa: F401  registers the problem structs that _emulated takes

        # A name of its own for each build: pybind11 remembers modules by name.
        name = f"emulated_{path.parent.name}._emulated"
        specification = importlib.util.spec_from_file_location(name, path)
        assert specification is not None
        assert specification.loader is not None
        module: ModuleType = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        self.cuda: Any = module.cuda  # type: ignore[attr-defined]
        self.control = ctypes.CDLL(str(path))
        self.control.emulator_add_buffer.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.control.emulator_launches.restype = ctypes.c_uint64
        self.configure()

    def configure(self, order: str = "forward", seed: int = 1, lazy: bool = True, check: bool = True) -> None:
        """order: in which order threads take turns; lazy: asynchronous work lands as late as it may."""
        self.control.emulator_configure(ORDERS[order], seed, int(lazy), int(check))

    @contextlib.contextmanager
    def memory(self, read: list[torch.Tensor | None], write: list[torch.Tensor | None]) -> Iterator[None]:
        """Within the block, kernels may read `read` and read and write `write` (whole storages), nothing else."""
        self.control.emulator_clear_buffers()
        for tensors, writable in ((write, 1), (read, 0)):
            for tensor in tensors:
                if tensor is not None and tensor.numel():
                    storage = tensor.untyped_storage()
                    self.control.emulator_add_buffer(storage.data_ptr(), storage.nbytes(), writable)
        try:
            yield
        finally:
            self.control.emulator_clear_buffers()

    @contextlib.contextmanager
    def any_memory(self) -> Iterator[None]:
        """Within the block, kernels may read and write any memory: bounds are not checked."""
        self.control.emulator_clear_buffers()
        self.control.emulator_allow_everything(1)
        try:
            yield
        finally:
            self.control.emulator_allow_everything(0)


def available() -> str | None:
    """Why the emulator cannot be built here; None if it can."""
    if shutil.which(COMPILER) is None:
        return f"{COMPILER} was not found"
    return None


@cache
def load() -> Emulator:
    return Emulator(build())
