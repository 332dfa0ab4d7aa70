"""The command line: what it prints, what it writes, and that a mistake ends in one sentence."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console
from typer.testing import CliRunner

import fastcnn
from fastcnn import __main__ as main_module
from fastcnn.__main__ import app
from fastcnn.core import native
from fastcnn.core.selector import SELECTORS
from fastcnn.models import lenet5
from fastcnn.workbench import demo as demo_module
from fastcnn.workbench import train as train_module

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def refused(*arguments):
    """The sentence with which the command refuses."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"fastcnn {arguments[0]}: ")
    assert lines[0].count(f"{arguments[0]}: ") == 1
    return lines[0]


def test_the_module_runs_and_lists_its_commands():
    result = subprocess.run([sys.executable, "-m", "fastcnn", "--help"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in ("info", "demo", "classify", "train", "kernels"):
        assert command in result.stdout


@pytest.mark.parametrize("command", ["info", "demo", "classify", "train", "kernels"])
def test_every_command_has_help(command):
    assert run(command, "--help").exit_code == 0


def test_info_names_versions_and_the_instruction_set():
    result = run("info")
    assert result.exit_code == 0
    for text in (torch.__version__.split("+")[0], "CPU instruction set", "GPUs"):
        assert text in result.output


def test_version_and_exit_codes_are_told():
    assert run("--version").output.strip() == fastcnn.__version__
    text = " ".join(run("--help").output.split())
    assert "Exit codes: 0 done; 1" in text
    assert "130 interrupted" in text
    assert run("nonsense").exit_code == 2


def test_the_shell_completes_commands():
    environment = os.environ | {"_FASTCNN_COMPLETE": "complete_bash", "COMP_WORDS": "fastcnn ver", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "from fastcnn.__main__ import main; main()"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.stdout.split() == ["verify"], result.stderr


@pytest.mark.parametrize("columns", ["80", "40"])
def test_a_narrow_terminal_cuts_no_column(columns, monkeypatch):
    monkeypatch.setattr(main_module, "console", Console(width=int(columns)))
    for command in ("kernels", "info"):
        output = run(command).output
        assert "\u2026" not in output  # the ellipsis of a cell that was cut
        assert max(map(len, output.splitlines())) <= int(columns)
    assert native.extension.cpu.isa() in run("info").output.split()


def test_an_interrupted_command_leaves_files_whole_and_says_so(monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    path = tmp_path / "weights.safetensors"
    path.write_text("what was here")

    def interrupted(tensors, filename):
        Path(filename).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", interrupted)
    result = run("train", "--epochs", 1, "--variant", "modern", "--output", path)
    assert result.exit_code == 130
    assert result.stderr.strip().endswith("fastcnn train: interrupted")
    assert path.read_text("utf-8") == "what was here"
    assert list(tmp_path.iterdir()) == [path]


def test_kernels_as_json_cover_every_operator():
    result = run("kernels", "--json")
    listed = json.loads(result.output)
    assert {kernel["op"] for kernel in listed} == set(SELECTORS)
    assert all(kernel["backend"] in ("cuda", "triton", "cpu", "reference") for kernel in listed)
    assert all(kernel.keys() >= {"op", "backend", "name", "dtypes", "architectures", "verified"} for kernel in listed)


def test_training_writes_weights_and_reports_held_out_accuracy(tmp_path):
    pytest.importorskip("sklearn")
    path = tmp_path / "new" / "weights.safetensors"
    result = run("train", "--epochs", 1, "--batch-size", 64, "--variant", "modern", "--seed", 5, "--output", path)
    assert result.exit_code == 0, result.output
    digits = train_module.load_digits()
    counts = train_module.confusion(
        lenet5("modern", weights=path).eval(), digits.held_out_images, digits.held_out_labels
    )
    assert f"{int(counts.diag().sum())} of 599 held-out digits read right" in result.output


def test_training_refuses_before_it_trains(tmp_path):
    assert "ends in .safetensors is needed" in refused("train", "--output", tmp_path / "weights.pth")
    assert "unknown variant 'new'" in refused("train", "--variant", "new", "--output", tmp_path / "w.safetensors")
    assert "learning_rate is -1.0" in refused("train", "--learning-rate", -1)
    (tmp_path / "file").write_text("")
    assert "file" in refused("train", "--epochs", 10**6, "--output", tmp_path / "file" / "weights.safetensors")


def test_a_digit_is_classified(tmp_path):
    pytest.importorskip("PIL")
    digits = pytest.importorskip("sklearn") and train_module.load_digits()
    demo_module.save_digit(digits.held_out_images[:1], tmp_path / "digit.png")
    safetensors.torch.save_file(lenet5().state_dict(), tmp_path / "lenet5.safetensors")
    arguments = ("classify", tmp_path / "digit.png", "--model", "lenet5", "--weights", tmp_path / "lenet5.safetensors")
    result = run(*arguments, "--top", 3)
    assert result.exit_code == 0, result.output
    lines = result.output.strip().splitlines()
    assert lines[0].endswith("lenet5.safetensors is lenet5, variant paper, 10 classes")
    assert "class" in lines[1]
    assert "distance" in lines[1]
    assert len(lines) == 5


@pytest.fixture
def digit_folder(tmp_path):
    pytest.importorskip("PIL")
    digits = pytest.importorskip("sklearn") and train_module.load_digits()
    folder = tmp_path / "digits"
    folder.mkdir()
    for name, index in (("b.png", 0), ("a.png", 1)):
        demo_module.save_digit(digits.held_out_images[index : index + 1], folder / name)
    (folder / "notes.txt").write_text("no picture")
    safetensors.torch.save_file(lenet5().state_dict(), tmp_path / "lenet5.safetensors")
    return folder


def test_a_folder_standard_input_and_a_broken_file_are_classified_together(digit_folder, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes((digit_folder / "a.png").read_bytes()[:70])
    options = ("--model", "lenet5", "--weights", tmp_path / "lenet5.safetensors", "--top", 2)
    arguments = [str(word) for word in ("classify", digit_folder, broken, "-", *options, "--format", "json")]
    result = runner.invoke(app, arguments, input=(digit_folder / "b.png").read_bytes())
    assert result.exit_code == 1  # one picture failed
    assert "broken.png" in result.stderr
    rows = json.loads(result.stdout)
    assert [row["picture"] for row in rows] == [
        str(digit_folder / "a.png"), str(digit_folder / "b.png"), str(broken), "<stdin>"
    ]  # fmt: skip
    assert [len(row.get("guesses", ())) for row in rows] == [2, 2, 0, 2]
    assert rows[3]["guesses"] == rows[1]["guesses"]
    assert set(rows[0]["guesses"][0]) == {"number", "name", "score"}
    assert "cannot read" in rows[2]["error"]

    lines = list(csv.DictReader(run("classify", digit_folder, *options, "--format", "csv").stdout.splitlines()))
    assert [(line["picture"], line["rank"]) for line in lines] == [
        (str(digit_folder / name), rank) for name in ("a.png", "b.png") for rank in ("1", "2")
    ]
    assert float(lines[0]["score"]) == rows[0]["guesses"][0]["score"]
    table = run("classify", digit_folder, *options).output
    assert table.count("distance") == 2
    assert "a.png" in table


def test_a_folder_without_pictures_is_refused(tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "empty").mkdir()
    options = ("--model", "lenet5", "--weights", tmp_path / "w.safetensors")
    assert "holds no file that ends like a picture" in refused("classify", tmp_path / "empty", *options)


def test_classifying_refuses_in_a_sentence(tmp_path):
    pytest.importorskip("PIL")
    picture = tmp_path / "picture.png"
    picture.write_text("no picture")
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(lenet5().state_dict(), weights)
    options = ("--model", "lenet5", "--weights", weights)
    assert "cannot read" in refused("classify", tmp_path / "missing.png", *options)
    assert "is not a picture" in refused("classify", picture, *options)
    __import__("PIL.Image").Image.new("L", (9, 9)).save(picture)
    assert "unknown model 'resnet51'" in refused("classify", picture, "--model", "resnet51", "--weights", weights)
    weights.write_text("no weights")
    assert "weights: cannot read" in refused("classify", picture, *options)


def test_an_error_names_the_command_that_ran(tmp_path):
    """Not the one whose code it shares."""
    assert "is not a folder" in refused("evaluate", tmp_path / "none", "--model", "resnet18", "--weights", "w.pth")
    assert "train: " not in refused("evaluate", tmp_path / "none", "--model", "resnet18", "--weights", "w.pth")
    assert refused("tune", "--networks", "none", "--device", "cpu").startswith("fastcnn tune: unknown network 'none'")
    pytest.importorskip("triton")
    assert "no Triton kernel's name holds 'none'" in refused("kernels", "--compile", "--only", "none")


def test_verifying_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU is visible" in refused("verify")


def test_an_interrupted_report_leaves_no_half_plot(monkeypatch, tmp_path):
    figure = pytest.importorskip("matplotlib.figure")

    def interrupted(self, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure.Figure, "savefig", interrupted)
    results = sorted((Path(__file__).parents[1] / "results").glob("amd*.json"))[0]
    assert run("report", results, "--output", tmp_path).exit_code == 130
    assert not list(tmp_path.iterdir())


def test_the_demo_refuses_in_a_sentence(monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "fastcnn.workbench.figures", raising=False)
    monkeypatch.delattr("fastcnn.workbench.figures", raising=False)
    assert "pip install 'fastcnn[demo]'" in refused("demo", "--output", tmp_path)
