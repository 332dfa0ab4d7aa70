"""python -m fastcnn tune --device cuda with the GPU's part faked: what is taken, what is refused, what is written."""

import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from fastcnn import __main__
from fastcnn.core import tuning_file
from fastcnn.workbench.report import timing
from fastcnn.workbench.report.cases import TINY, Case
from fastcnn.workbench.tune import gpu as tune_gpu

LINEAR, CONV = (Case("op", call.function, f"tiny {call.function}", call=call, batch=3) for call in TINY[2:])
MICROSECONDS = {"model": 10.0, "equal": 9.9, "faster": 8.0, "wrong": 1.0, "failing": 1.0, "pytorch": 12.0}
ABOUT = {"device": "A GPU (80 GB)", "architecture": "sm_90", "driver": "1.2"}


def option(name, layer):
    def prepare():
        if name == "failing":
            raise RuntimeError("out of shared memory")
        result = layer.truth.float() * (1.01 if name == "wrong" else 1)
        return lambda: result

    return tune_gpu.Option(name, {"tile": name}, prepare)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU whose options have set times. Yields the folder of the user's files and the options' names, to be set."""
    names = ["model", "equal", "faster", "wrong", "failing"]
    monkeypatch.setattr(tune_gpu, "OPTIONS", {"cuda": lambda layer, tf32: (option(name, layer) for name in names)})
    monkeypatch.setattr(
        timing, "interleave",
        lambda runs, effort, device: {name: timing.Samples(1, [MICROSECONDS[name] / 1e6]) for name in runs},
    )  # fmt: skip
    monkeypatch.setattr(tune_gpu, "cases", lambda networks, batches, dtypes: [(CONV, False), (LINEAR, True)])
    monkeypatch.setattr(tune_gpu, "usable", lambda backends: ["cuda"])
    monkeypatch.setattr(tune_gpu, "about", lambda device: ABOUT)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(tuning_file, "PACKAGE", tmp_path / "package")
    monkeypatch.setattr(tuning_file, "USER", tmp_path / "user")
    tuning_file.choices.cache_clear()
    yield tmp_path / "user", names
    tuning_file.choices.cache_clear()


def run(**options):
    return tune_gpu.run(Console(), ["lenet5"], [1], timing.QUICK, **options)


def test_the_fastest_right_one_is_written_and_chosen(gpu):
    folder, names = gpu
    names.remove("wrong")
    path = run()
    assert path == folder / "a-gpu-80-gb.json"
    data = json.loads(path.read_text("utf-8"))
    assert {name: data[name] for name in ABOUT} == ABOUT
    conv, linear = (
        "conv2d float32 n3 4x4x8 k8 3x3 stride 1x1 pad 1x1x1x1 dilation 1x1 groups 1",
        "conv2d tf32 n3 1x1x8 k8 1x1 stride 1x1 pad 0x0x0x0 dilation 1x1 groups 1",
    )
    assert set(data["entries"]["cuda"]) == {conv, linear}
    entry = data["entries"]["cuda"][conv]
    assert entry["choice"] == {"tile": "faster"}
    assert (entry["microseconds"], entry["model_microseconds"], entry["candidates"]) == (8.0, 10.0, 3)
    assert entry["error"] < 1e-6
    assert tuning_file.choices("A GPU (80 GB)", "cuda") == {conv: {"tile": "faster"}, linear: {"tile": "faster"}}
    assert tuning_file.choices("A GPU (80 GB)", "triton") == tuning_file.choices("Another GPU", "cuda") == {}
    assert not list(folder.glob("*.[0-9]*")), "the partial file stays"


def test_within_the_noise_the_models_choice_stays(gpu):
    gpu[1][:] = ["model", "equal"]
    assert {e["choice"]["tile"] for e in json.loads(run().read_text("utf-8"))["entries"]["cuda"].values()} == {"model"}


def test_a_wrong_one_is_told_and_not_taken_and_a_failing_one_does_not_end_the_run(gpu, capsys):
    folder, _ = gpu
    with pytest.raises(AssertionError, match=r"wrong results: cuda conv2d float32 .*: wrong: relative error 1.0e-02"):
        run()
    assert "failing: RuntimeError: out of shared memory" in capsys.readouterr().out.replace("\n", " ")
    taken = json.loads((folder / "a-gpu-80-gb.json").read_text("utf-8"))["entries"]["cuda"].values()
    assert [entry["choice"]["tile"] for entry in taken] == ["faster", "faster"]


def test_nothing_right_writes_nothing(gpu):
    gpu[1][:] = ["failing"]
    assert not run().exists()
    gpu[1][:] = ["failing", "equal"]  # the model's own choice could not be timed
    (entry, _) = json.loads(run().read_text("utf-8"))["entries"]["cuda"].values()
    assert (entry["choice"], entry["model_microseconds"]) == ({"tile": "equal"}, None)


def test_most_and_output(gpu, tmp_path):
    path = run(most=2, output=tmp_path / "made.json")
    assert path == tmp_path / "made.json"
    assert {e["candidates"] for e in json.loads(path.read_text("utf-8"))["entries"]["cuda"].values()} == {2}
    assert run(most=1, output=tmp_path) == tmp_path / "a-gpu-80-gb.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "device": "Another GPU"}))
    with pytest.raises(ValueError, match=r"made.json is of Another GPU, this is A GPU \(80 GB\)"):
        run(most=1, output=path)


def test_the_users_entries_overrule_the_packages(gpu):
    entry = tuning_file.Entry({"tile": "package"}, 1.0, 1.0, 0.0, 1, "2026-01-01")
    for folder, names, tile in ((tuning_file.PACKAGE, ("a", "b"), "package"), (tuning_file.USER, ("b", "c"), "user")):
        for name in names:
            own = entry._replace(choice={"tile": tile})
            tuning_file.write(folder / tuning_file.file_name(ABOUT["device"]), ABOUT, "cuda", name, own)
    found = tuning_file.choices(ABOUT["device"], "cuda")
    assert {name: choice["tile"] for name, choice in found.items()} == {"a": "package", "b": "user", "c": "user"}


@pytest.mark.parametrize(("text", "message"), [("{", "not a tuning file: .*remove it"), ("[]", "has format 1, this")])
def test_other_files_are_refused_by_name(tmp_path, text, message):
    (tmp_path / "gpu.json").write_text(text)
    with pytest.raises(ValueError, match=f"gpu.json: .*{message}"):
        tuning_file.read(tmp_path / "gpu.json")


def test_layers_of_the_networks():
    found = tune_gpu.cases(["lenet5", "alexnet"], [1, 8], ["tf32", "float16"])
    assert {case.subject for case, _ in found} == {"conv2d", "linear"}
    assert {(case.dtype, tf32) for case, tf32 in found} == {("float32", True), ("float16", False)}
    assert {case.device for case, _ in found} == {"cuda"}
    for case in (CONV, replace(LINEAR, dtype="bfloat16")):
        layer = tune_gpu.layer_of(case)
        p = layer.problem
        y = torch.nn.functional.conv2d(layer.x, layer.weight, layer.bias, p.stride, p.padding[::2]).relu()
        assert (p.activation, p.y_stride, p.x_stride) == ("relu", 8, 8)
        torch.testing.assert_close(y.double().flatten(), layer.truth.flatten(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda"], "fastcnn tune: no CUDA device is visible"),
        (["--device", "cuda", "--dtypes", "int8"], "tune: unknown dtype 'int8'; allowed: float32, tf32"),
        (["--device", "cuda", "--backends", "cpu"], "tune: unknown backend 'cpu'; allowed: cuda, triton"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--device", "cpu", "--output", "here.json"], "--output, --dtypes and --most are a GPU's"),
    ],
)
def test_command_refuses_in_words(monkeypatch, arguments, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(__main__.app, ["tune", "--networks", "lenet5", *arguments])
    assert result.exit_code == 1
    assert message in result.output
