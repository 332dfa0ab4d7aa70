"""scripts/gpu.sh: a step that fails or hangs stops no other, and the end says which it was."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu.sh"


def run(folder, steps, budget=30, **programs):
    """The script in a world of its own: `programs` are shell scripts that come first on PATH."""
    for name, text in programs.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": "false", "STEPS": steps,
        "BUDGET": str(budget), "OUT": str(folder / "out"),
    }  # fmt: skip
    return subprocess.run(["bash", SCRIPT], env=environment, capture_output=True, text=True, timeout=60)


def test_a_failing_step_does_not_stop_the_others(tmp_path):
    result = run(tmp_path, "device", nvidia_smi="echo no driver; exit 9", nvcc="echo 13.0")
    assert result.returncode == 1
    summary = (tmp_path / "out" / "summary.txt").read_text("utf-8")
    assert "FAILED (exit 9): driver" in summary
    assert "passed: compiler" in summary
    assert "FAILED (exit 1): versions" in summary
    assert "failed: driver,versions" in summary
    log = (tmp_path / "out" / "log.txt").read_text("utf-8")
    assert "no driver" in log
    assert "13.0" in log


def test_a_hanging_step_is_ended_and_what_does_not_fit_is_not_begun(tmp_path):
    result = run(tmp_path, "device", budget=6, nvidia_smi="sleep 100", nvcc="echo 13.0")
    summary = (tmp_path / "out" / "summary.txt").read_text("utf-8")
    assert "TIMED OUT after" in summary
    assert "not run: versions" in summary
    assert result.returncode == 1


def test_everything_passes_or_the_step_is_unknown(tmp_path):
    assert run(tmp_path, "").returncode == 0
    result = run(tmp_path, "biuld")
    assert result.returncode == 2
    assert "unknown step biuld" in result.stderr
