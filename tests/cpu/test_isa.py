"""The choice of the instruction set."""

import os
import subprocess
import sys

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
