"""The choice of the instruction set."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastcnn import _C


def import_with(name: str) -> subprocess.CompletedProcess[str]:
    code = "from fastcnn import _C; print(_C.cpu.isa())"
    environment = {**os.environ, "FASTCNN_CPU_ISA": name}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("isa", _C.cpu.isas())
def test_environment_forces_an_instruction_set(isa: str) -> None:
    assert import_with(isa).stdout.strip() == isa


def test_unknown_instruction_set_is_one_sentence() -> None:
    result = import_with("sse9")
    assert result.returncode != 0
    assert "FASTCNN_CPU_ISA: instruction set 'sse9' is unknown or not available here" in result.stderr
    with pytest.raises(ValueError, match="set_isa: instruction set 'sse9'"):
        _C.cpu.set_isa("sse9")


def test_baseline_is_always_there() -> None:
    assert _C.cpu.isas()[-1] == "baseline"
    assert _C.cpu.isa() in _C.cpu.isas()


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512_bf16", "avx512_vnni", "amx"])
def test_no_function_is_shared_between_instruction_sets(isa: str) -> None:
    """The linker keeps one copy of a weak symbol: it must not be one that only some processors can run."""
    build = Path(__file__).parents[2] / "build"
    objects = [str(path) for path in build.glob(f"cmake-*/CMakeFiles/fastcnn_{isa}.dir/**/*.o")]
    if not objects or not shutil.which("nm"):
        pytest.skip("needs nm and the object files of an in-place build")
    listing = subprocess.run(["nm", "--demangle", *objects], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^[0-9a-f]+ [TD] fastcnn::", listing, re.MULTILINE), "nothing was listed"
    assert not [name for name in weak_symbols(listing) if f"fastcnn::{isa}::" not in name]


def weak_symbols(listing: str) -> list[str]:
    """The defined weak symbols in nm's output: lines of an address, a letter and a name, files' names between them."""
    return [name for letter, name in re.findall(r"^[0-9a-f]+ (\w) (.+)$", listing, re.MULTILINE) if letter in "WVu"]


def test_file_names_are_no_symbols() -> None:
    listing = """
/home/anyone/with/another/uWVpath/abcdef W file.o:
                 U memcpy
0000000000000000 W fastcnn::avx2::max(float, float)
                 w __gmon_start__
0000000000000010 T fastcnn::avx2::lrn()
00000000000000a0 V vtable for fastcnn::Plan

/home/anyone/with/another/u V W/other.o:
0000000000000000 u fastcnn::avx2::table
"""
    assert weak_symbols(listing) == [
        "fastcnn::avx2::max(float, float)", "vtable for fastcnn::Plan", "fastcnn::avx2::table",
    ]  # fmt: skip
