"""Training and evaluating on a folder of pictures."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

Image = pytest.importorskip("PIL.Image")
if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)

from fastcnn.models import get_model  # noqa: E402
from fastcnn.workbench.train import augment, evaluate, files, judge, pictures, run  # noqa: E402
from fastcnn.workbench.train.schedule import Schedule, optimizer  # noqa: E402
from fastcnn.workbench.train.settings import Settings  # noqa: E402

SETTINGS = Settings(
    model="resnet20_cifar", size=16, epochs=3, batch_size=8, learning_rate=0.02, workers=0, colour=0.2, pca=0.1
)
CLASSES = {"apple": (200, 40, 40), "lime": (60, 190, 60), "plum": (80, 50, 160)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Noisy pictures of three colours and several sizes."""
    root = tmp_path_factory.mktemp("fruit")
    generator = torch.Generator().manual_seed(0)
    for name, colour in CLASSES.items():
        (root / name).mkdir()
        for i in range(14):
            noise = torch.randint(-40, 40, (20 + i, 26, 3), generator=generator)
            pixels = (torch.tensor(colour) + noise).clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / name / f"{i}.png")
    return root


def weights_of(output):
    return files.load_checkpoint(output / "checkpoint.pt")["model"]


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_learns_and_leaves_its_files(folder, tmp_path):
    said = []
    history = run.train(folder, tmp_path, replace(SETTINGS, epochs=6, ema=0.5), said.append)
    assert history[-1]["loss"] < history[0]["loss"]
    assert max(row["top1"] for row in history) > 0.6
    assert [line.split(":")[0] for line in said] == [f"epoch {n} of 6" for n in range(1, 7)]
    assert json.loads((tmp_path / "classes.json").read_text()) == sorted(CLASSES)
    assert json.loads((tmp_path / "history.json").read_text()) == history
    for name in ("best.safetensors", "last.safetensors", "curves.png", "confusion.png"):
        assert (tmp_path / name).stat().st_size > 1000
    assert not list(tmp_path.glob(".*"))
    get_model("resnet20_cifar", num_classes=3, weights=tmp_path / "best.safetensors")


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, pytest.param(replace(SETTINGS, schedule="plateau", ema=0.9, workers=2), marks=pytest.mark.slow)],
)
def test_a_killed_run_goes_on_with_equal_bits(folder, tmp_path, settings):
    run.train(folder, tmp_path / "whole", settings, lambda line: None)

    def die(what, done, of):
        if what == "epoch 2" and done > of // 2:
            raise Killed

    with pytest.raises(Killed):
        run.train(folder, tmp_path / "killed", settings, lambda line: None, die)
    said = []
    history = run.train(folder, tmp_path / "killed", settings, said.append)
    assert said[0].startswith("goes on from")
    assert len(history) == 3
    assert same_bits(weights_of(tmp_path / "killed"), weights_of(tmp_path / "whole"))
    assert not same_bits(weights_of(tmp_path / "whole"), run.build(settings, 3).state_dict())


def test_another_runs_checkpoint_is_refused(folder, tmp_path):
    run.train(folder, tmp_path, replace(SETTINGS, epochs=1), lambda line: None)
    with pytest.raises(ValueError, match=r"another run .learning_rate was 0.02, is 0.5.; give another --output"):
        run.train(folder, tmp_path, replace(SETTINGS, epochs=1, learning_rate=0.5))
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="cannot read the checkpoint"):
        run.train(folder, tmp_path, replace(SETTINGS, epochs=1))


def test_a_full_disk_leaves_the_last_checkpoint(folder, tmp_path, monkeypatch):
    run.train(folder, tmp_path, replace(SETTINGS, epochs=1), lambda line: None)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(state, to):
        to.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        files.save_checkpoint(tmp_path / "checkpoint.pt", {})
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def damaged(folder, tmp_path):
    copy = tmp_path / "damaged"
    for name in CLASSES:
        (copy / name).mkdir(parents=True)
        for file in (folder / name).iterdir():
            (copy / name / file.name).write_bytes(file.read_bytes())
    whole = (copy / "lime" / "3.png").read_bytes()
    (copy / "lime" / "3.png").write_bytes(whole[: len(whole) // 2])
    (copy / "plum" / "0.png").write_bytes(b"")
    (copy / "plum" / "notes.txt").write_text("no picture")
    return copy


def test_damaged_pictures_are_named_and_skipped(damaged, tmp_path):
    said = []
    run.train(damaged, tmp_path / "out", replace(SETTINGS, epochs=2, held_out=0.2), said.append)
    skipped = [line for line in said if line.startswith("skipped")]
    assert len(skipped) == 2  # each once, in training or in evaluation
    assert skipped[-1].endswith("(2 skipped so far)")
    assert {line.split(":")[0].split("/")[-2] for line in skipped} == {"lime", "plum"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "empty").mkdir(), "the class empty is empty"),
        (lambda root: [p.unlink() for p in (root / "apple").iterdir()], "the class apple is empty"),
    ],
)
def test_an_empty_class_is_refused(damaged, tmp_path, change, message):
    change(damaged)
    with pytest.raises(ValueError, match=message):
        run.train(damaged, tmp_path / "out", SETTINGS)
    with pytest.raises(ValueError, match="is not a folder"):
        run.train(damaged / "nowhere", tmp_path / "out", SETTINGS)
    with pytest.raises(ValueError, match="holds no folders"):
        run.train(damaged / "lime", tmp_path / "out", SETTINGS)


def test_not_one_picture(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "in" / name / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="not one picture could be read"):
        run.train(tmp_path / "in", tmp_path / "out", SETTINGS, lambda line: None)
    with pytest.raises(ValueError, match="in the folder of pictures, where it would be a class"):
        run.train(tmp_path, tmp_path / "out", SETTINGS, lambda line: None)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs is 0; at least 1"),
        ("learning_rate", float("nan"), "learning_rate is nan; a positive number"),
        ("momentum", 1.0, "momentum is 1.0; from 0 up to below 1"),
        ("schedule", "linear", "unknown schedule 'linear'; allowed: cosine, step, plateau"),
        ("crop", "big", "unknown crop 'big'"),
        ("weight_decay", -1.0, "weight_decay is -1.0"),
    ],
)
def test_settings_are_checked(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(Settings(), **{field: value})


def test_schedules():
    cosine = Schedule(replace(Settings(), epochs=10, learning_rate=1.0, warmup_epochs=2), 5)
    rates = [cosine.rate(step) for step in range(50)]
    assert rates.index(max(rates)) == 10
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01
    step = Schedule(replace(Settings(), learning_rate=1.0, schedule="step", step_epochs=2), 5)
    assert [step.rate(s) for s in (0, 9, 10, 19, 20)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    plateau = Schedule(replace(Settings(), learning_rate=1.0, schedule="plateau", patience=2), 5)
    seen = []
    for accuracy in (0.5, 0.6, 0.6, 0.55, 0.7, 0.6, 0.6):
        plateau.epoch_ends(accuracy)
        seen.append(plateau.rate(0))
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01])


def test_weight_decay_spares_biases_and_normalisations():
    model = get_model("resnet20_cifar", num_classes=3)
    decayed, spared = optimizer(model, Settings()).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0.0)
    assert all(p.dim() > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_lighting_follows_the_colours(tmp_path):
    """Pictures that differ along one line through the colours are lit along that line."""
    direction = torch.tensor([3.0, 2.0, -1.0]) / 14**0.5
    (tmp_path / "a").mkdir()
    for i in range(8):
        pixels = (128 + direction * (i - 4) * 20).round().clamp(0, 255).to(torch.uint8)
        Image.fromarray(pixels.expand(9, 9, 3).contiguous().numpy()).save(tmp_path / "a" / f"{i}.png")
    axes = augment.principal_axes(pictures.list_folder(tmp_path))
    strongest = axes[axes.norm(dim=1).argmax()]
    assert abs((strongest / strongest.norm()) @ direction) > 0.999
    torch.manual_seed(0)
    change = augment.Lighting(axes, 1.0)(torch.zeros(3, 2, 2))
    assert (change[:, 0, 0] == change[:, 1, 1]).all()
    assert change.any()


def test_pictures_do_not_depend_on_what_was_drawn_before(folder):
    listing, _ = pictures.split(folder, SETTINGS)
    data = pictures.Pictures(listing, augment.training(SETTINGS, torch.eye(3)), SETTINGS)
    first = data[1, 5].image
    torch.manual_seed(123)
    torch.rand(7)
    assert torch.equal(first, data[1, 5].image)
    assert not torch.equal(first, data[2, 5].image)
    state = torch.get_rng_state()
    data[1, 6]
    assert torch.equal(state, torch.get_rng_state())


def test_processes_share_an_epoch():
    whole = pictures.epoch_order(10, 3, SETTINGS)
    parts = [pictures.epoch_order(10, 3, SETTINGS, rank, 2) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(whole) == list(range(10))
    assert whole != pictures.epoch_order(10, 4, SETTINGS)


@pytest.mark.parametrize("crop", ["resized", "jitter", "none"])
@pytest.mark.parametrize("model", ["resnet20_cifar", "lenet5"])
def test_crops_have_the_networks_size(folder, crop, model):
    settings = replace(Settings(), model=model, size=0, crop=crop)
    listing = pictures.list_folder(folder)
    sample = pictures.Pictures(listing, augment.training(settings, None), settings)[0, 0]
    assert sample.image.shape == (1 if model == "lenet5" else 3, 32, 32)
    ten = pictures.Pictures(listing, augment.evaluation(settings, "10"), settings)[0, 0]
    assert ten.image.shape[0] == 10


@pytest.mark.slow
def test_evaluation_by_crops_and_ensembles(folder, tmp_path):
    run.train(folder, tmp_path, replace(SETTINGS, epochs=4), lambda line: None)
    settings = evaluate.settings_for("resnet20_cifar", None, 16, 8, 0)
    best = tmp_path / "best.safetensors"
    verdict, classes = evaluate.evaluate(folder, [best], settings)
    assert classes == sorted(CLASSES)
    assert verdict.pictures == 42
    assert verdict.counts.sum(1).tolist() == [14, 14, 14]
    assert verdict.top5_accuracy == 1.0
    twice, _ = evaluate.evaluate(folder, [best, best], settings)
    assert torch.equal(twice.counts, verdict.counts)
    for crops, scales in (("10", ()), ("dense", (16, 24))):
        other, _ = evaluate.evaluate(
            folder, [best, tmp_path / "last.safetensors"], settings, crops=crops, scales=scales
        )
        assert other.pictures == 42
        assert abs(other.top1_accuracy - verdict.top1_accuracy) < 0.35


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(crops="5"), "unknown crops '5'; allowed: 1, 10, dense"),
        (dict(scales=(256,)), "scales are for dense crops alone"),
        (dict(crops="dense", scales=(8,)), "scales are .8,.; at least 16"),
    ],
)
def test_evaluation_refuses(folder, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate(folder, [tmp_path / "x.safetensors"], replace(SETTINGS), **arguments)
    with pytest.raises(FileNotFoundError, match="no file"):
        evaluate.evaluate(folder, [tmp_path / "x.safetensors"], SETTINGS)


def test_verdict_of_known_scores(folder):
    """Top-1 and top-5 counted by hand, of a network that always says the same."""

    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([0.0, 3.0, 1.0]).expand(len(x), 3)

    verdict = judge.judge([Constant()], pictures.list_folder(folder), SETTINGS)
    assert verdict.counts[:, 1].tolist() == [14, 14, 14]
    assert verdict.top1_accuracy == pytest.approx(1 / 3)


def command(*arguments, processes=1):
    start = [sys.executable, "-m", "fastcnn"]
    if processes > 1:
        start = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={processes}",
            "--standalone",
            "-m",
            "fastcnn",
        ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*start, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=500)


OPTIONS = ("--model", "resnet20_cifar", "--size", 16, "--epochs", 1, "--workers", 0, "--learning-rate", 0.02)


@pytest.mark.slow
def test_the_commands(folder, tmp_path):
    made = command("train", folder, "--output", tmp_path, *OPTIONS, "--batch-size", 8)
    assert made.returncode == 0, made.stderr
    assert "best: top-1" in made.stdout
    judged = command(
        "evaluate", folder, "--model", "resnet20_cifar", "--weights", tmp_path / "best.safetensors", "--size", 16,
        "--workers", 0, "--output", tmp_path,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stderr
    assert "42 pictures, 0 skipped" in judged.stdout
    refused = command("train", folder / "apple", "--output", tmp_path, *OPTIONS)
    assert refused.returncode == 1
    assert "holds no folders" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_two_processes_equal_one_within_rounding(folder, tmp_path):
    """A network without batch normalisation, whose statistics are each process's own, and without dropout."""
    options = ("--model", "lenet5", "--variant", "modern", "--epochs", 2, "--workers", 0, "--learning-rate", 0.01,
               "--held-out", 0.14)  # fmt: skip
    one = command("train", folder, "--output", tmp_path / "one", *options, "--batch-size", 12)
    assert one.returncode == 0, one.stderr
    two = command("train", folder, "--output", tmp_path / "two", *options, "--batch-size", 6, processes=2)
    assert two.returncode == 0, two.stderr
    first = json.loads((tmp_path / "one" / "history.json").read_text())
    second = json.loads((tmp_path / "two" / "history.json").read_text())
    assert first[0]["top5"] == second[0]["top5"]
    a, b = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name in a:
        assert (a[name] - b[name]).norm() <= 1e-4 * a[name].norm()
