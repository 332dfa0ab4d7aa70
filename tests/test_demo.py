"""The demo's parts: fair timing, errors against float64, pictures; the whole of it on a small network."""

import json

import pytest
import torch
from rich.console import Console
from torch import nn

from fastcnn.models import lenet5, resnet20_cifar
from fastcnn.workbench import demo, train
from fastcnn.workbench.report.timing import Samples

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


def test_timing_is_milliseconds():
    samples = Samples(1, [float(i) for i in range(101)][::-1])
    assert demo.Timing.of(samples) == demo.Timing(50e3, 10e3, 90e3)


def test_random_weights_are_reproducible_and_nowhere_neutral():
    one = demo.randomise(resnet20_cifar(variant="B"), seed=0)
    again = demo.randomise(resnet20_cifar(variant="B"), seed=0)
    other = demo.randomise(resnet20_cifar(variant="B"), seed=1)
    for name, value in one.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        assert torch.equal(value, again.state_dict()[name]), name
        assert not torch.equal(value, other.state_dict()[name]), name
        assert ((value == 0) | (value == 1)).sum() <= 1, name


def test_comparison_is_with_float64_and_shows_a_wrong_result(monkeypatch):
    model, input = lenet5().eval(), torch.randn(1, 1, 32, 32)
    right = demo.compare("lenet5", "paper", model, input, "noise", 0.0)
    assert 0 < right.torch_error < 1e-5
    assert 0 < right.fastcnn_error < 1e-5
    assert right.ratio == right.torch_ms.median / right.fastcnn_ms.median
    weight = next(model.parameters())
    assert weight.dtype == torch.float32
    assert not weight.is_inference()  # such a weight has no version, and would be packed anew at each call

    class Wrong(nn.Module):
        def forward(self, input):
            return model(input) * 1.01

    monkeypatch.setattr(demo, "optimize", lambda model: Wrong())
    wrong = demo.compare("lenet5", "paper", model, input, "noise", 0.0)
    assert wrong.torch_error == right.torch_error
    assert wrong.fastcnn_error == pytest.approx(0.01, rel=1e-3)


def test_the_table_fits_a_narrow_terminal():
    slow, fast = demo.Timing(854.4, 843.1, 1770.2), demo.Timing(0.04541, 0.04481, 0.06649)
    rows = [demo.Comparison("googlenet", "paper", "photograph", 1.5e-6, 1e-7, time, time) for time in (slow, fast)]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(demo.comparison_table(rows))
    cells = ["googlenet", "1.5e-06", "1.0e-07", "854 (843-1770)", "0.045 (0.045-0.066)", "1.00 x"]
    assert all(cell in capture.get() for cell in cells)


@pytest.mark.parametrize("variant", [pytest.param("paper", marks=pytest.mark.slow), "modern"])
def test_the_whole_demo_on_a_small_network(variant, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "NETWORKS", (("resnet20_cifar", "A"),))
    output = tmp_path / "new" / "folder"
    results = demo.run(output, recipe=train.Recipe(variant, epochs=1), seconds=0.0)
    expected = {"lenet5.safetensors", "digit.png", "photograph.png", "results.json", "confusion.png", "speeds.png"}
    if variant == "paper":
        expected |= {"feature_maps.png", "rbf.png"}
    assert {path.name for path in output.iterdir()} == expected
    for path in output.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) >= 200
            assert len(image.convert("RGB").getcolors(2**24)) > 10, path  # something is drawn
    assert json.loads((output / "results.json").read_text("utf-8")) == results
    assert [network["network"] for network in results["networks"]] == ["lenet5", "resnet20_cifar"]
    assert all(network["fastcnn_error"] < 1e-4 for network in results["networks"])
    trained = lenet5(variant, weights=output / "lenet5.safetensors").eval()
    digits = train.load_digits()
    counts = train.confusion(trained, digits.held_out_images, digits.held_out_labels)
    assert counts.tolist() == results["confusion"]
    printed = capsys.readouterr().out
    assert str(output) in printed
    assert "random weights" in printed


def test_maps_are_those_of_the_forward_pass():
    model = lenet5().eval()
    digit = torch.randn(1, 1, 32, 32)
    maps, f6 = demo.activations(model, digit)
    assert [tuple(value.shape) for value in maps.values()] == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5)]
    with torch.no_grad():
        torch.testing.assert_close(f6[None], model.f6(model.features(digit).flatten(1)), rtol=1e-5, atol=0)
        torch.testing.assert_close(maps["S4, subsampling\n16 x 5 x 5"][None], model.features[:4](digit))


def test_missing_packages_are_named_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"the demo needs sklearn: pip install 'fastcnn\[demo\]'"):
        demo.run(tmp_path)
