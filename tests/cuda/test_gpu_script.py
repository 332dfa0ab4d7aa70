"""scripts/gpu.py: a step that fails or hangs stops no other, results are written at once, parts keep their budget."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu.py"


def run(folder, steps, python="exit 0", budget=60, part=1):
    """The script with a shell script in the place of the Python that steps call."""
    program = folder / "python"
    program.write_text(f"#!/bin/bash\n{python}\n", "utf-8")
    program.chmod(0o755)
    environment = {
        **os.environ, "PYTHON": str(program), "STEPS": steps, "BUDGET": str(budget), "OUT": str(folder / "out"),
        "PART": str(part), "FASTCNN_CUDA_ARCHS": "90a",
    }  # fmt: skip
    environment.pop("REHEARSE", None)
    return subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=120)


def results(folder):
    return {r["name"]: r for r in json.loads((folder / "out" / "steps.json").read_text("utf-8"))}


def test_a_failing_step_does_not_stop_the_others(tmp_path):
    result = run(tmp_path, "versions verify", 'echo "asked for: $*"; [[ $* != *verify* ]]')
    found = results(tmp_path)
    assert found["versions"]["verdict"] == "passed"
    assert found["verify"]["verdict"] == "FAILED (exit 1)"
    assert "failed: verify" in (tmp_path / "out" / "summary.txt").read_text("utf-8")
    assert "asked for: -m fastcnn verify" in next((tmp_path / "out").glob("1-*-verify.txt")).read_text("utf-8")
    assert result.returncode == 1


def test_a_hanging_step_is_ended_with_what_it_started_and_what_does_not_fit_is_not_begun(tmp_path):
    """A step's child would outlive a kill of the step alone."""
    result = run(tmp_path, "versions verify", f"(sleep 100; echo {tmp_path}) & sleep 100", budget=6)
    found = results(tmp_path)
    assert found["versions"]["verdict"].startswith("TIMED OUT after")
    assert found["verify"]["verdict"] == 'not run: no time left; STEPS="verify" runs it alone'
    assert result.returncode == 1
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "python") not in running


def test_steps_beside_do_not_hold_up_those_that_do_not_need_them(tmp_path):
    begun = time.monotonic()
    run(
        tmp_path, "build versions cuda", "[[ $* == *build_ext* ]] && sleep 6; [[ $* == *platform* ]] && sleep 2; exit 0"
    )
    found = results(tmp_path)
    assert {r["verdict"] for r in found.values()} == {"passed"}
    assert list(found) == ["versions", "build", "cuda parity"]  # parity waits for the build
    assert found["build"]["seconds"] >= 6
    assert time.monotonic() - begun >= 8  # versions come before the build begins


def test_a_part_has_its_own_steps_and_an_unknown_one_is_named(tmp_path):
    assert run(tmp_path, "weak", part=1).returncode == 0
    assert not (tmp_path / "out" / "steps.json").exists()
    assert run(tmp_path, "weak", part=2).returncode == 0
    assert list(results(tmp_path)) == ["weak spots"]
    result = run(tmp_path, "biuld")
    assert result.returncode == 2
    assert "unknown step biuld; there are: versions, build" in result.stderr


@pytest.mark.parametrize("part", [1, 2])
def test_the_limits_of_a_part_are_about_its_budget(part):
    """Steps seldom use their limits up; where they do, the last are not begun."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import gpu; "
        f"print(sum(s.limit for s in gpu.steps() if s.part == {part} and not s.beside) / gpu.BUDGETS[{part}])"
    )
    found = subprocess.run([sys.executable, "-c", code, SCRIPT.parent], capture_output=True, text=True, check=True)
    assert float(found.stdout) <= 1.35
