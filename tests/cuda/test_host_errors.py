"""What the host's half of the CUDA kernels does when the runtime fails, against a runtime that fails on demand."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
COMPILER = os.environ.get("CXX", "g++")

# 12.5 renamed the question for a driver's function; CUDA 13 dropped the old name.
TOOLKITS = {"12.0": 12000, "12.5": 12050, "13.0": 13000}


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"{COMPILER} was not found")
@pytest.mark.parametrize("toolkit", TOOLKITS)
def test_a_failed_call_is_reported_once_and_leaves_nothing_behind(toolkit, tmp_path):
    program = tmp_path / "errors"
    command = [COMPILER, "-std=c++17", "-w", "-include", "cuda_runtime.h", f"-DCUDART_VERSION={TOOLKITS[toolkit]}"]
    command += [f"-I{HERE / 'fake_runtime'}", f"-I{CSRC}", HERE / "fake_runtime" / "errors.cpp", "-o", program]
    subprocess.run(command, check=True)
    assert subprocess.run([program], check=True, capture_output=True, text=True).stdout == ""
