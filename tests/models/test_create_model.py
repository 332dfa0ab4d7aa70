"""timm's habits: lists by pattern, heads, inputs, features; weights under other names and in other wrappings."""

import itertools
import logging

import pytest
import safetensors.torch
import torch
from model_helpers import on_meta, random_state, randomised
from torchvision_cpu import models as torchvision_models

from fastcnn.models import FeatureNet, create_model, list_models

timm = pytest.importorskip("timm")
assert torchvision_models  # timm imports torchvision


def save(state, path):
    state = {key: value.clone() for key, value in state.items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def test_lists_by_pattern():
    assert list_models("vgg*_bn") == ["vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
    assert list_models(["resnet18", "lenet*"]) == ["lenet5", "resnet18"]
    assert list_models("mobilenet*") == []
    assert len(list_models()) == 33


@pytest.mark.parametrize("name", ["vgg11", "vgg13_bn", "resnet18", "resnet50"])
def test_heads_and_features_are_timms(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=7).eval()
        featured = timm.create_model(name, features_only=True, out_indices=(1, 3))
    ours = on_meta(name, num_classes=7).eval()
    x = torch.empty(2, 3, 224, 224, device="meta")
    assert ours.forward_features(x).shape == theirs.forward_features(x).shape
    assert ours.forward_head(ours.forward_features(x), pre_logits=True).shape == (2, theirs.head_hidden_size)
    assert ours.get_classifier().out_features == theirs.get_classifier().out_features == 7
    for classes in (3, 0):
        ours.reset_classifier(classes)
        theirs.reset_classifier(classes)
        assert ours(x).shape == theirs(x).shape
        assert ours.num_classes == classes
    with torch.device("meta"):
        ours = create_model(name, features_only=True, out_indices=(1, 3))
    assert [map.shape for map in ours(x)] == [map.shape for map in featured(x)]
    assert ours.channels == featured.feature_info.channels()
    assert ours.reductions == featured.feature_info.reduction()


@pytest.mark.parametrize(
    ("name", "arguments", "size", "maps"),
    [("lenet5", {}, 32, 3), ("alexnet", {}, 224, 4), ("alexnet", {"variant": "torchvision"}, 224, 4),
     ("googlenet", {}, 224, 5), ("googlenet", {"variant": "torchvision"}, 96, 5), ("resnet20_cifar", {}, 32, 3)],
)  # fmt: skip
def test_the_last_map_is_what_the_head_reads(name, arguments, size, maps):
    model = randomised(name, **arguments)
    x = torch.randn(2, 1 if name == "lenet5" else 3, size, size)
    with torch.inference_mode():
        expected = model(x)
        features = FeatureNet(model)(x)
        assert len(features) == maps
        assert all(a.shape[2] > b.shape[2] for a, b in itertools.pairwise(features))
        torch.testing.assert_close(features[-1], model.forward_features(x), rtol=0, atol=0)
        torch.testing.assert_close(model.forward_head(features[-1]), expected, rtol=0, atol=0)
        before = model.forward_head(features[-1], pre_logits=True)
        assert before.shape == (2, model.num_features)
        torch.testing.assert_close(model.get_classifier()(before), expected, rtol=0, atol=0)
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), before, rtol=0, atol=0)


def test_indices_of_features():
    model = on_meta("resnet18")
    assert FeatureNet(model, out_indices=(-1, 0)).channels == [64, 512]
    with pytest.raises(ValueError, match="no stage 5, ResNet has 5"):
        FeatureNet(model, out_indices=(5,))
    with pytest.raises(ValueError, match="out_indices belongs to features_only=True"):
        create_model("resnet20_cifar", out_indices=(1,))


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_equal_colours_are_worth_the_same_in_other_channels(channels):
    torch.manual_seed(0)
    three = create_model("resnet20_cifar")
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", in_chans=channels)
    grey = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            model.eval()(grey.expand(2, channels, 32, 32)), three.eval()(grey.expand(2, 3, 32, 32)),
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"weight has .* input channels, input has 5"):
        model(torch.rand(1, 5, 32, 32))


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_other_channels_get_the_weights_that_timm_gives_them(channels):
    from timm.models import adapt_input_conv

    model = create_model("resnet20_cifar")
    expected = adapt_input_conv(channels, model.conv1.weight.detach())
    model.set_input_channels(channels)
    torch.testing.assert_close(model.conv1.weight.detach(), expected, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="in_chans is 0"):
        model.set_input_channels(0)


def test_dropout_rates():
    model = create_model("alexnet", num_classes=2, drop_rate=0.25)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    google = on_meta("googlenet", drop_rate=0.1)
    assert (google.dropout.p, google.aux1.dropout.p) == (0.1, 0.7)
    resnet = create_model("resnet20_cifar", drop_rate=0.9).train()
    features = torch.ones(64, 64, 8, 8)
    dropped = resnet.forward_head(features, pre_logits=True)
    assert 0.85 < (dropped == 0).float().mean() < 0.95
    assert (resnet.eval().forward_head(features, pre_logits=True) == 1).all()
    for rate, words in ((1.0, "below 1"), (-0.1, "at least 0")):
        with pytest.raises(ValueError, match=words):
            create_model("resnet20_cifar", drop_rate=rate)
    with pytest.raises(ValueError, match="LeNet5 has no dropout"):
        create_model("lenet5", drop_rate=0.5)


def test_arguments_of_the_builder_and_no_others():
    assert create_model("lenet5", squashing="tanh").squashing == "tanh"
    with pytest.raises(TypeError, match="lenet5 has no argument 'aux_logits', of its own it has squashing, prototypes"):
        create_model("lenet5", aux_logits=True)
    with pytest.raises(TypeError, match="of its own it has none"):
        create_model("resnet18", pretrained=True)
    with pytest.raises(ValueError, match="set of prototypes"):
        create_model("lenet5").reset_classifier(5)


# Files


def wrapped(state, kind):
    if kind == "checkpoint":
        return {"epoch": 3, "arch": "resnet", "state_dict": state, "optimizer": {"lr": 0.1}}
    if kind == "averaged":
        return {"state_dict": {key: value * 0 for key, value in state.items()}, "state_dict_ema": state}
    prefix = {"parallel": "module.", "compiled": "_orig_mod.", "both": "module._orig_mod.", "lightning": "model."}[kind]
    named = {prefix + key: value for key, value in state.items()}
    return {"state_dict": named} if kind == "lightning" else named


@pytest.mark.parametrize("kind", ["checkpoint", "averaged", "parallel", "compiled", "both", "lightning"])
@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_wrappings(kind, suffix, tmp_path):
    state = random_state(create_model("resnet20_cifar").state_dict())
    path = tmp_path / f"weights{suffix}"
    torch.save(wrapped(state, kind), path)
    loaded = create_model("resnet20_cifar", weights=path).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("name", "arguments", "variant"),
    [("resnet18", {"variant": "A"}, "A"), ("resnet18", {}, "B"), ("resnet20_cifar", {"variant": "B"}, "B"),
     ("alexnet", {"variant": "torchvision", "num_classes": 3}, "torchvision"), ("alexnet", {"num_classes": 3}, "paper"),
     ("lenet5", {"variant": "modern", "num_classes": 4}, "modern"),
     ("googlenet", {"variant": "torchvision", "num_classes": 5}, "torchvision")],
)  # fmt: skip
def test_the_variant_and_the_classes_are_found_and_said(name, arguments, variant, tmp_path, caplog):
    saved = create_model(name, **arguments)
    path = save(saved.state_dict(), tmp_path / "weights.safetensors")
    with caplog.at_level(logging.INFO, "fastcnn"):
        model = create_model(name, weights=path)
    classes = arguments.get("num_classes", 10 if "cifar" in name else 1000)
    assert model.variant == variant
    assert model.num_classes == classes
    assert f"is {name}, variant {variant}, {classes} classes" in caplog.text
    assert model.load_report.fits
    state = saved.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", pytest.param("vgg11", marks=pytest.mark.slow)])
def test_files_of_timm_compute_what_timm_computes(name, tmp_path):
    twin = timm.create_model(name, num_classes=3, pretrained=False).eval()
    twin.load_state_dict(random_state(twin.state_dict()))
    path = save(twin.state_dict(), tmp_path / "weights.safetensors")
    model = create_model(name, weights=path).eval()
    x = torch.randn(2, 3, 224 if name == "vgg11" else 75, 224 if name == "vgg11" else 75)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), twin(x), rtol=1e-3, atol=1e-3)


def test_timms_names_of_vgg_fit():
    with torch.device("meta"):
        state = timm.create_model("vgg16_bn").state_dict()
    model = on_meta("vgg16_bn")
    assert "pre_logits.fc1.weight" in state
    adapted = model.adapt_state_dict(state)
    assert {key: value.shape for key, value in adapted.items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_another_number_of_classes_is_a_choice(tmp_path):
    saved = create_model("resnet20_cifar", num_classes=12)
    path = save(saved.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"has 12 classes, num_classes is 5; new_head=True makes a new last layer"):
        create_model("resnet20_cifar", num_classes=5, weights=path)
    model = create_model("resnet20_cifar", num_classes=5, weights=path, new_head=True)
    assert model.fc.weight.shape == (5, 64)
    assert torch.equal(model.layer3[2].conv2.weight, saved.layer3[2].conv2.weight)
    assert create_model("resnet20_cifar", num_classes=0, weights=path)(torch.rand(1, 3, 32, 32)).shape == (1, 64)


def test_a_file_of_grey_pictures_and_a_change_of_channels(tmp_path):
    grey = create_model("resnet20_cifar", in_chans=1)
    path = save(grey.state_dict(), tmp_path / "grey.pth")
    model = create_model("resnet20_cifar", weights=path)
    assert torch.equal(model.conv1.weight, grey.conv1.weight)
    x = torch.rand(2, 1, 32, 32)
    coloured = create_model("resnet20_cifar", weights=path, in_chans=3).eval()
    with torch.inference_mode():
        torch.testing.assert_close(coloured(x.expand(2, 3, 32, 32)), grey.eval()(x), rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_listed_or_refused(tmp_path, caplog):
    state = create_model("resnet20_cifar").state_dict()
    state["extra"] = torch.zeros(1)
    weight = state.pop("layer1.0.conv1.weight")
    state["layer1.0.conv2.weight"] = weight[:3]
    path = save(state, tmp_path / "odd.pth")
    with pytest.raises(
        ValueError, match=r"missing keys: layer1\.0\.conv1\.weight; unexpected keys: extra; other shapes"
    ):
        create_model("resnet20_cifar", weights=path)
    with caplog.at_level(logging.WARNING, "fastcnn"):
        model = create_model("resnet20_cifar", weights=path, strict=False)
    assert model.load_report.missing == ["layer1.0.conv1.weight"]
    assert model.load_report.left_over == ["extra"]
    assert "layer1.0.conv2.weight (file (3, 16, 3, 3), model (16, 16, 3, 3))" in caplog.text
    assert torch.equal(model.fc.weight, state["fc.weight"])


def test_every_layer_shows_its_sizes():
    for name in ("lenet5", "resnet20_cifar"):
        for line in repr(create_model(name)).splitlines():
            assert "()" not in line or "AddReLU" in line or "PadShortcut" in line, line
    assert "PartialConv2d(6, 16, connections=60, kernel_size=5" in repr(create_model("lenet5"))
