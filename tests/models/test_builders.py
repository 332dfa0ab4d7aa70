"""What every builder shares: names, bad arguments, weights from files, gradients, tracing."""

import copy
import inspect
from pathlib import Path

import pytest
import safetensors.torch
import torch
from model_helpers import count, on_meta, random_state, randomised

import fastcnn.models
from fastcnn.models import get_model, initialise_from_shallow, list_models


def test_every_name_builds_and_is_public() -> None:
    names = list_models()
    assert len(names) == len(set(names)) == 33
    for name in names:
        builder = getattr(fastcnn.models, name)
        assert builder.__name__ == name
        assert builder.__doc__
        assert name in fastcnn.models.__all__
        assert list(inspect.signature(builder).parameters)[:3] == ["variant", "num_classes", "weights"]


def test_unknown_model() -> None:
    with pytest.raises(ValueError, match="unknown model 'resnet51', expected one of resnet18, resnet34, "):
        get_model("resnet51")
    with pytest.raises(ValueError, match="unknown model 'mobilenet', expected one of lenet5, alexnet, "):
        get_model("mobilenet")


@pytest.mark.parametrize("name", list_models())
def test_unknown_variant_lists_the_allowed(name: str) -> None:
    default = inspect.signature(getattr(fastcnn.models, name)).parameters["variant"].default
    with pytest.raises(ValueError, match=rf"{name}: unknown variant 'x', expected one of .*'{default}'"):
        get_model(name, variant="x")


@pytest.mark.parametrize("name", ["lenet5", "alexnet", "vgg11", "googlenet", "resnet18", "resnet20_cifar"])
def test_bad_num_classes(name: str) -> None:
    with torch.device("meta"):
        builder = getattr(fastcnn.models, name)
        for value in (0, -3):
            with pytest.raises(ValueError, match=f"num_classes is {value}, expected at least 1"):
                builder(num_classes=value)
        for value in (2.0, "10", None, True):
            with pytest.raises(TypeError, match=r"num_classes is a .*, expected an int"):
                builder(num_classes=value)
        for value, error in ((-3, ValueError), (2.0, TypeError), ("10", TypeError), (True, TypeError)):
            with pytest.raises(error, match="num_classes is"):
                get_model(name, num_classes=value)


# LeNet-5's prototypes are ten: test_lenet.py gives it others. 1,202 layers differ from 110 in their number alone.
@pytest.mark.parametrize("name", [name for name in list_models() if name != "lenet5" and "1202" not in name])
def test_num_classes(name: str) -> None:
    model = on_meta(name, num_classes=7).eval()
    size = 32 if "cifar" in name else 224
    with torch.no_grad():
        assert model(torch.empty(1, 3, size, size, device="meta")).shape == (1, 7)


# A small network of each family: its file is written and read in a moment.
SMALL = [("lenet5", {}), ("lenet5", {"variant": "modern"}), ("resnet20_cifar", {}), ("plain20_cifar", {})]


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
@pytest.mark.parametrize(("name", "arguments"), SMALL)
def test_weights_round_trip(name: str, arguments: dict, suffix: str, tmp_path: Path) -> None:
    state = random_state(get_model(name, **arguments).state_dict())
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    for given in (path, str(path)):
        loaded = get_model(name, **arguments, weights=given).state_dict()
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    state = get_model("resnet20_cifar").state_dict()
    state["extra"] = torch.zeros(1)
    del state["layer1.0.conv1.weight"]
    state["fc.bias"] = torch.zeros(11)
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(ValueError, match="does not fit CifarResNet") as caught:
        get_model("resnet20_cifar", weights=path)
    message = str(caught.value)
    assert "missing keys: layer1.0.conv1.weight" in message
    assert "unexpected keys: extra" in message
    assert "other shapes: fc.bias (file (11,), model (10,))" in message


def test_weights_of_another_network_are_listed_in_short(tmp_path: Path) -> None:
    path = tmp_path / "lenet.pth"
    torch.save(get_model("lenet5").state_dict(), path)
    with pytest.raises(ValueError, match=r"missing keys: conv1.weight, .* and \d+ more"):
        get_model("resnet18", weights=path)


def test_files_without_batch_counts_still_load(tmp_path: Path) -> None:
    state = {k: v for k, v in get_model("resnet20_cifar").state_dict().items() if "num_batches" not in k}
    path = tmp_path / "old.pth"
    torch.save(state, path)
    loaded = get_model("resnet20_cifar", weights=path).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_auxiliary_weights_are_passed_over_without_heads(tmp_path: Path) -> None:
    path = tmp_path / "googlenet.pth"
    state = get_model("googlenet", variant="torchvision", num_classes=5).state_dict()
    torch.save(state, path)
    model = get_model("googlenet", variant="torchvision", num_classes=5, weights=path, aux_logits=False)
    assert torch.equal(model.conv1.conv.weight, state["conv1.conv.weight"])
    with pytest.raises(ValueError, match="has 5 classes, num_classes is 6"):
        get_model("googlenet", variant="torchvision", num_classes=6, weights=path, aux_logits=False)


class Evil:
    def __reduce__(self) -> tuple:
        return print, ("code from a file ran",)


def test_unreadable_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights: no file .*none\.pth"):
        get_model("lenet5", weights=tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"ends in '.onnx', expected .safetensors, .pth, .pt or .bin"):
        get_model("lenet5", weights=tmp_path / "net.onnx")
    for suffix in ("pth", "safetensors"):
        broken = tmp_path / f"broken.{suffix}"
        broken.write_bytes(b"not a file of weights")
        with pytest.raises(ValueError, match="weights: cannot read"):
            get_model("lenet5", weights=broken)
    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="weights: cannot read"):
        get_model("lenet5", weights=tmp_path / "evil.pth")
    assert "code from a file ran" not in capsys.readouterr().out
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds something other than a state_dict"):
        get_model("lenet5", weights=tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [("lenet5", {}, 32), ("lenet5", {"variant": "modern"}, 32), ("alexnet", {"variant": "torchvision"}, 64),
     ("googlenet", {"variant": "paper"}, 224), ("googlenet", {"variant": "torchvision"}, 64), ("resnet18", {}, 64),
     ("resnet50", {"variant": "A"}, 64), ("plain20_cifar", {}, 32), ("resnet20_cifar", {}, 32)],
)  # fmt: skip
def test_gradients_reach_every_parameter(name: str, arguments: dict, size: int) -> None:
    torch.manual_seed(0)
    model = get_model(name, **arguments).train()
    output = model(torch.randn(2, 1 if name == "lenet5" else 3, size, size))
    outputs = output if isinstance(output, tuple) else (output,)
    sum(out.square().sum() for out in outputs).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.count_nonzero() > 0, key


def test_googlenet_loss_weighs_the_heads() -> None:
    model = get_model("googlenet", variant="torchvision", num_classes=4)
    x, target = torch.randn(2, 3, 64, 64), torch.tensor([0, 3])
    output = model(x)
    cross_entropy = torch.nn.functional.cross_entropy
    heads = cross_entropy(output.aux_logits1, target) + cross_entropy(output.aux_logits2, target)
    expected = cross_entropy(output.logits, target) + 0.3 * heads
    torch.testing.assert_close(fastcnn.models.googlenet_loss(output, target), expected)
    logits = model.eval()(x)
    assert isinstance(logits, torch.Tensor)
    torch.testing.assert_close(fastcnn.models.googlenet_loss(logits, target), cross_entropy(logits, target))


@pytest.mark.parametrize(("name", "variant"), [("vgg16", "C"), ("vgg16", "D"), ("vgg19", "E"), ("vgg16_bn", "D")])
def test_shallow_net_fits_every_deeper_one(name: str, variant: str) -> None:
    for shallow in ("A", "A-LRN"):
        deep = on_meta(name, variant=variant)
        initialise_from_shallow(deep, on_meta("vgg11", variant=shallow))
        assert [key for key, _ in deep.named_convs()][:4] == ["conv1_1", "conv1_2", "conv2_1", "conv2_2"]


def test_shallow_initialisation_copies_values() -> None:
    shallow, deep = randomised("vgg11", num_classes=3), randomised("vgg13", num_classes=3)
    with torch.no_grad():
        for parameter in shallow.parameters():
            parameter.add_(1)
    before = {name: conv.weight.clone() for name, conv in deep.named_convs()}
    initialise_from_shallow(deep, shallow)
    source, target = dict(shallow.named_convs()), dict(deep.named_convs())
    copied = {"conv1_1", "conv2_1", "conv3_1", "conv3_2"}
    for name, conv in target.items():
        expected = source[name].weight if name in copied else before[name]
        assert torch.equal(conv.weight, expected), name
        assert not (name in copied and not torch.equal(conv.bias, source[name].bias)), name
    for key in ("0", "3", "6"):
        assert torch.equal(deep.classifier.get_submodule(key).weight, shallow.classifier.get_submodule(key).weight)


def test_shallow_initialisation_refuses() -> None:
    with pytest.raises(ValueError, match="shallow is VGG B, expected A or A-LRN"):
        initialise_from_shallow(on_meta("vgg16"), on_meta("vgg13"))
    with pytest.raises(ValueError, match="shallow has 1000 classes, deep has 10"):
        initialise_from_shallow(on_meta("vgg16", num_classes=10), on_meta("vgg11"))


def test_dense_evaluation_refuses() -> None:
    dense = fastcnn.models.to_dense(on_meta("vgg11"))
    with pytest.raises(ValueError, match=r"scales is \(200,\), expected sizes of at least 224"):
        dense.evaluate(torch.empty(1, 3, 224, 224), scales=(200,))
    with pytest.raises(ValueError, match="scales is"):
        dense.evaluate(torch.empty(1, 3, 224, 224), scales=())
    with pytest.raises(ValueError, match=r"input has shape \(3, 224, 224\), expected \(N, 3, H, W\)"):
        dense.evaluate(torch.empty(3, 224, 224))


@pytest.mark.parametrize("name", [name for name in list_models() if "1202" not in name])
def test_traces_and_copies(name: str) -> None:
    """No branch depends on values or sizes, so that graph passes see every layer; deepcopy is independent."""
    model = on_meta(name).eval()
    graph = torch.fx.symbolic_trace(model)
    assert len(list(graph.graph.nodes)) > 10
    assert count(copy.deepcopy(model)) == count(model)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "alexnet", "vgg11"])
def test_wrong_inputs_are_refused_in_words(name: str) -> None:
    model = on_meta(name).eval()
    with pytest.raises(ValueError, match="weight has 3 input channels, input has 1"):
        model(torch.empty(1, 1, 224, 224, device="meta"))
    if name == "alexnet":
        with pytest.raises(ValueError, match="linear: "):
            model(torch.empty(1, 3, 256, 256, device="meta"))
