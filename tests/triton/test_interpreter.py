"""Runs tests/triton/interpreted_*.py with TRITON_INTERPRET=1, each in a process of its own.

The variable must be set before triton is first imported, and makes every kernel of the process interpreted.
To run one by hand: TRITON_INTERPRET=1 pytest tests/triton/interpreted_conv2d.py
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def run(file: Path, marks: str) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    root = FOLDER.parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", marks, str(file)],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{root}{os.pathsep}{FOLDER}"},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


FILES = sorted(FOLDER.glob("interpreted_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_interpreted(file):
    run(file, "not slow")


@pytest.mark.slow
@pytest.mark.parametrize("file", [f for f in FILES if "mark.slow" in f.read_text("utf-8")], ids=lambda file: file.stem)
def test_interpreted_slow(file):
    run(file, "slow")
