"""The README: its code runs, its commands exist, its table says what the ledger says."""

import re
import shlex
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from fastcnn.__main__ import app
from fastcnn.core import ledger
from fastcnn.core.selector import SELECTORS
from fastcnn.models import resnet50
from fastcnn.workbench import demo, train

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [
    shlex.split(line, comments=True) for kind, block in BLOCKS if kind == "console" for line in block.splitlines()
]

# What makes a command's run short, and keep its hands off the user's own files.
SHORTER = {
    "train": ["--epochs", "1"],
    "bench": ["--seconds", "0.01", "--batches", "1", "--contenders", "fastcnn,eager"],
    "tune": ["--seconds", "0.01", "--batches", "1", "--device", "cpu"],
    "claims": ["--seconds", "0.01"],
}


def test_every_block_is_python_or_commands():
    assert {kind for kind, _ in BLOCKS} == {"python", "console"}
    assert all(command[:1] == ["make"] or command[:3] == ["python", "-m", "fastcnn"] for command in COMMANDS)


def test_python_blocks_run_one_after_the_other():
    namespace = {}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "README.md", "exec"), namespace)
    torch.testing.assert_close(namespace["reference"], namespace["conv"](namespace["x"]), rtol=1e-4, atol=1e-4)
    assert namespace["logits"].shape == (1, 1000)
    with torch.inference_mode():
        expected = namespace["net"](namespace["x"])
    error = (namespace["logits"] - expected).norm() / expected.norm()
    assert error < 1e-4


def test_make_targets_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    used = [command[1] for command in COMMANDS if command[0] == "make"]
    assert set(used) == {"demo", "test"}
    assert set(used) <= set(targets)


MEASURES = ("bench", "tune", "claims")  # take most of a minute together, however short each measurement is


@pytest.mark.parametrize("measures", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_commands_run(measures, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("PIL")
    monkeypatch.chdir(tmp_path)
    demo.sample_photograph(tmp_path / "photo.jpg")
    demo.save_digit(train.load_digits().images[:1], tmp_path / "digit.png")
    safetensors.torch.save_file(resnet50().state_dict(), "resnet50.safetensors")
    for command in COMMANDS:
        if command[0] == "make" or (command[3] in MEASURES) != measures:
            continue
        result = CliRunner().invoke(app, [*command[3:], *SHORTER.get(command[3], [])])
        assert result.exit_code == 0, f"{command}: {result.output} {result.stderr}"
    assert measures or (tmp_path / "lenet5.safetensors").exists()


def test_the_table_has_every_operator_and_no_more_than_is_true():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", README, re.MULTILINE)
    assert {row[0] for row in rows} == set(SELECTORS)
    for op, cpu, cuda, triton in rows:
        backends = {candidate.backend for candidate in SELECTORS[op].candidates}
        assert (cpu == "tested") == ("cpu" in backends), op
        assert (cuda == "emulated") == ("cuda" in backends), op
        assert (triton == "interpreted") == ("triton" in backends), op
    assert not ledger.entries(), "a kernel was verified on hardware: the README must say which and where"


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!https:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:csrc|fastcnn)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path
