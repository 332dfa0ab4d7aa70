"""Writes the kernels' cards: python scripts/cards.py [--errors]

In results/kernels, cuda.json and triton.json have a row for each kernel and architecture: registers, bytes spilled,
bytes of shared memory (of a CUDA kernel, without what its launch adds) and a hash of the machine code; errors.json has
one for each kernel and dtype, with the largest error against float64. The operators' pages of the site show both beside
the hardware ledger.

tests/test_cards.py compares the built extension with the rows: a change that alters a kernel's machine code shows it in
the diff of these files, and one that does so unseen fails.

Needs a build with CUDA kernels, triton and pyelftools. --errors also runs every kernel again: the CPU's here, CUDA's in
the emulator, Triton's in its interpreter; some minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fastcnn.core import native
from fastcnn.core.files import rows_as_json, write_whole

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results" / "kernels"
ARCHITECTURES = (80, 90, 100)  # that the Triton kernels are compiled for
Row = dict[str, Any]


def compilers() -> dict[str, str]:
    """What makes the machine code; another version of it may make other code of the same source."""
    nvcc = re.search(r"nvcc ([\d.]+)", native.extension.build_info().get("cuda", ""))
    return {"cuda": f"nvcc {nvcc[1]}" if nvcc else "", "triton": f"triton {version('triton')}"}


# ---- machine code ------------------------------------------------------------------------------------------


def cuobjdump() -> str | None:
    """Of the CUDA toolkit, else the one that the triton wheel carries."""
    if found := shutil.which("cuobjdump"):
        return found
    spec = find_spec("triton")
    bundled = spec and spec.origin and Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(bundled) if bundled and bundled.exists() else None


def code(cubin: Path) -> dict[str, str]:
    """Mangled name -> hash of the machine code, for each kernel of a cubin."""
    from elftools.elf.elffile import ELFFile

    with cubin.open("rb") as file:
        sections = [s for s in ELFFile(file).iter_sections() if s.name.startswith(".text.")]
        return {s.name.removeprefix(".text."): hashlib.sha256(s.data()).hexdigest()[:12] for s in sections}


def usage(binary: Path) -> dict[tuple[str, str], dict[str, int]]:
    """(architecture, mangled name) -> what it uses: REG, STACK, SHARED, LOCAL."""
    tool = cuobjdump()
    assert tool is not None
    text = subprocess.run(
        [tool, "--dump-resource-usage", binary], check=True, capture_output=True, text=True
    ).stdout  # fmt: skip
    found: dict[tuple[str, str], dict[str, int]] = {}
    architecture = name = ""
    for line in text.splitlines():
        if line.startswith("arch = "):
            architecture = line.removeprefix("arch = ").strip()
        elif match := re.match(r" Function (\w+):", line):
            name = match[1]
        elif "REG:" in line:
            found[architecture, name] = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
    return found


def cuda_rows() -> list[Row]:
    """One for each kernel that nvcc made and each architecture, from the built extension."""
    binary = Path(native.extension.__file__ or "").resolve()
    tool = cuobjdump()
    assert tool is not None
    hashes: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([tool, "--extract-elf", "all", binary], check=True, cwd=folder, capture_output=True)
        for cubin in Path(folder).glob("*.cubin"):
            architecture = cubin.name.split(".")[-2]
            hashes.update({(architecture, name): found for name, found in code(cubin).items()})
    used = usage(binary)
    written = subprocess.run(
        ["c++filt"], input="\n".join(name for _, name in used), check=True, capture_output=True, text=True
    ).stdout.splitlines()  # fmt: skip
    return sorted(
        (
            {
                "function": readable(name).partition("<")[0], "kernel": readable(name), "architecture": architecture,
                "registers": use["REG"], "spilled": use["LOCAL"] + use["STACK"], "shared": use["SHARED"],
                "code": hashes[architecture, mangled],
            }
            for ((architecture, mangled), use), name in zip(used.items(), written, strict=True)
        ),
        key=lambda row: (row["kernel"], row["architecture"]),
    )  # fmt: skip


def readable(name: str) -> str:
    """conv2d_sm80_kernel<half, 64x64, ...>: a demangled name without namespaces, parameters and what never differs."""
    name = re.sub(r"^void |fastcnn::cuda::|\(anonymous namespace\)::", "", name).rpartition("(")[0]
    return re.sub(r"\bfloat\b", "float32", name).replace("__nv_bfloat16", "bfloat16").replace("__half", "float16")


def triton_rows(only: str = "", architectures: tuple[int, ...] = ARCHITECTURES) -> list[Row]:
    """One for the default choice of each Triton kernel in each case of the compile table, and each architecture."""
    from fastcnn.workbench.verify.triton_sweep import compile_table

    return [
        {
            "function": row.facts.kernel, "kernel": row.case, "architecture": f"sm_{row.arch}",
            "registers": row.facts.registers, "spilled": row.facts.stack_bytes, "shared": row.facts.shared_bytes,
            "code": row.facts.code,
        }
        for row in sorted(compile_table(architectures, only=only), key=lambda row: (row.case, row.arch))
        if row.facts is not None
    ]  # fmt: skip


# ---- errors ------------------------------------------------------------------------------------------------


def error_rows() -> Iterator[Row]:
    """The largest error against float64 of each kernel and dtype over its operator's cases, and how it was run."""
    for backend, how in (("cpu", "run"), ("triton", "interpreted"), ("cuda", "emulated")):
        command = [sys.executable, __file__, "--serve", backend]
        folders = [str(ROOT), str(ROOT / "tests" / "cuda"), str(ROOT / "tests" / "emulator")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
        if how == "interpreted":
            environment["TRITON_INTERPRET"] = "1"
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield json.loads(line) | {"how": how}
        if process.returncode:
            raise SystemExit(f"cards: {' '.join(command)} ended with {process.returncode}")


def serve(backend: str) -> None:
    """Prints an error row for each kernel of the backend and each dtype, as they are found."""
    import torch

    from fastcnn.workbench.verify import judge, worker

    class Here(worker.Setting):
        """The CPU in the GPU's place."""

        clock = "cpu"

        def synchronise(self) -> None:
            pass

    setting = Here(torch.device("cpu"))
    if backend == "cuda":
        import emulated_worker

        emulated_worker.install()
    for operator, candidate, dtype in worker.kernels((backend,)):
        if backend == "triton" and operator.name in worker.PRODUCTS:
            continue  # minutes each: tests/triton/interpreted_conv2d.py holds them to a bound
        if backend == "cpu" and dtype == "tf32":
            continue
        kernel = worker.kernel_name(operator, candidate)
        # Winograd has a bound of its own, beyond the judge's (docs/numerics.md): it is measured like the rest.
        judged = nullcontext() if "winograd" not in kernel else patch.object(judge, "verdict", lambda *_: "")
        with judged:
            found = [each for each in worker.correctness(setting, kernel, dtype, []) if "plan" in each]
        if failed := [each for each in found if each["failed"]]:
            raise SystemExit(f"{kernel} {dtype}: {failed[0]}")
        error = float(f"{max(each['error'] for each in found):.1e}") if found else None  # None: it takes no case
        print(json.dumps({"kernel": kernel, "dtype": dtype, "error": error}), flush=True)


# ---- the file ----------------------------------------------------------------------------------------------


def differences(found: list[Row], committed: list[Row]) -> list[str]:
    """What the rows found say otherwise than those committed, of the architectures that both have; a line a kernel."""
    shared = {row["architecture"] for row in found} & {row["architecture"] for row in committed}
    ours, theirs = (
        {(row["kernel"], row["architecture"]): row for row in rows if row["architecture"] in shared}
        for rows in (found, committed)
    )
    lines = []
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            state = "is new" if key not in theirs else "is gone" if key not in ours else "has other machine code"
            lines.append(f"{key[0]} for {key[1]} {state}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--errors", action="store_true", help="run every kernel again")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if native.unavailable is not None or not hasattr(native.extension, "cuda"):
        raise SystemExit("cards: fastcnn was built without CUDA kernels")
    for backend, rows in (("cuda", cuda_rows), ("triton", triton_rows)):
        path = FOLDER / f"{backend}.json"
        found, known = rows(), json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
        write_whole(path, rows_as_json({"compiler": compilers()[backend], "rows": found}))
        print("\n".join(differences(found, known)))
    if options.errors:
        write_whole(FOLDER / "errors.json", rows_as_json({"rows": list(error_rows())}))


if __name__ == "__main__":
    main()
