"""microtests.cu on the emulator: what the Hopper kernels rest on, as a GPU's owner runs it first."""

import subprocess

import emulation
import pytest

pytestmark = pytest.mark.emulated
MICROTESTS = emulation.ROOT / "tests" / "cuda" / "microtests.cu"


def program(folder, source=MICROTESTS):
    """The microtests as a program, with the emulator in it."""
    jobs = [(s, emulation.RUNTIME) for s in emulation.runtime_sources()]
    jobs += [(emulation.CSRC / "cuda" / "tensor_map.cu", emulation.KERNEL), (source, emulation.KERNEL)]
    objects = [emulation._compile(path, flags, (emulation.CSRC,)) for path, flags in jobs]
    subprocess.run([emulation.COMPILER, *objects, "-o", folder / "microtests"], check=True)
    return folder / "microtests"


def test_every_question_is_answered(tmp_path):
    result = subprocess.run([program(tmp_path)], capture_output=True, text=True, timeout=120)
    answers = dict(line.split(":")[0].split(" ", 1) for line in result.stdout.splitlines() if line.startswith("T"))
    assert answers == {f"T{i}": "not here" if i == 6 else "pass" for i in range(1, 9)}, result.stdout
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("find", "replace", "failing"),
    [
        ("const int x = w + row % box.w * box.step", "const int x = w + row % box.w", "T4"),
        ("if (t.inside(c + i, x, y, z)) *before.at", "if (c + i < 0) *before.at", "T2"),
        ("encode(t, {8, 8, 1}, &params.map, true)", "encode(t, {8, 8, 1}, &params.map)", "T8"),
    ],
)
def test_a_wrong_answer_fails(tmp_path, find, replace, failing):
    text = MICROTESTS.read_text("utf-8")
    assert text.count(find) == 1
    source = tmp_path / "microtests.cu"
    source.write_text(text.replace(find, replace), "utf-8")
    result = subprocess.run([program(tmp_path, source), failing], capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1].startswith(f"{failing} FAIL")
    assert result.returncode == 1
