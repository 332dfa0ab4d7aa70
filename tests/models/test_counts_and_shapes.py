"""Parameter counts and output shapes of every network and variant, on tensors without memory."""

import pytest
import torch
from model_helpers import count, on_meta, shapes

import fastcnn.models

COUNTS = [
    ("lenet5", "paper", 60_000),
    ("lenet5", "modern", 61_706),
    ("alexnet", "paper", 60_965_224),
    ("alexnet", "torchvision", 61_100_840),
    ("alexnet", "textbook", 74_372_456),
    ("vgg11", "A", 132_863_336),
    ("vgg11", "A-LRN", 132_863_336),
    ("vgg13", "B", 133_047_848),
    ("vgg16", "C", 133_638_952),
    ("vgg16", "D", 138_357_544),
    ("vgg19", "E", 143_667_240),
    ("vgg11_bn", "A", 132_868_840),
    ("vgg13_bn", "B", 133_053_736),
    ("vgg16_bn", "D", 138_365_992),
    ("vgg19_bn", "E", 143_678_248),
    ("googlenet", "paper", 13_378_280),
    ("googlenet", "torchvision", 13_004_888),
    ("resnet18", "B", 11_689_512),
    ("resnet34", "B", 21_797_672),
    ("resnet50", "B", 25_557_032),
    ("resnet101", "B", 44_549_160),
    ("resnet152", "B", 60_192_808),
    ("resnet18", "A", 11_515_688),
    ("resnet34", "A", 21_623_848),
    ("resnet50", "A", 22_780_456),
    ("resnet101", "A", 41_772_584),
    ("resnet152", "A", 57_416_232),
    ("resnet20_cifar", "A", 269_722),
    ("resnet32_cifar", "A", 464_154),
    ("resnet44_cifar", "A", 658_586),
    ("resnet56_cifar", "A", 853_018),
    ("resnet110_cifar", "A", 1_727_962),
    ("resnet20_cifar", "B", 272_474),
    ("resnet1202_cifar", "A", 19_421_274),
]
SLOW = {"resnet1202_cifar"}


def input_of(name: str, batch: int = 2, device: str = "meta") -> torch.Tensor:
    if name == "lenet5":
        return torch.empty(batch, 1, 32, 32, device=device)
    size = 32 if name.endswith("_cifar") else 224
    return torch.empty(batch, 3, size, size, device=device)


@pytest.mark.parametrize(
    ("name", "variant", "expected"),
    [pytest.param(*row, marks=[pytest.mark.slow] * (row[0] in SLOW)) for row in COUNTS],
)
def test_parameters_and_output(name: str, variant: str, expected: int) -> None:
    model = on_meta(name, variant=variant).eval()
    assert count(model) == expected
    classes = 10 if name == "lenet5" or name.endswith("_cifar") else 1000
    with torch.no_grad():
        assert model(input_of(name)).shape == (2, classes)


def test_every_builder_is_listed_above() -> None:
    counted = {name for name, _, _ in COUNTS}
    plain = {name for name in fastcnn.models.list_models() if name.startswith("plain")}
    assert counted | plain == set(fastcnn.models.list_models())


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152, "20_cifar", "32_cifar", "44_cifar", "56_cifar", "110_cifar"])
def test_plain_twins_have_the_parameters_of_option_a(depth: object) -> None:
    plain, residual = on_meta(f"plain{depth}"), on_meta(f"resnet{depth}", variant="A")
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in residual.state_dict().items()}


@pytest.mark.parametrize(("variant", "expected"), [("paper", 6_998_552), ("torchvision", 6_624_904)])
def test_googlenet_without_auxiliary_heads(variant: str, expected: int) -> None:
    assert count(on_meta("googlenet", variant=variant, aux_logits=False)) == expected


def test_lenet_layers() -> None:
    model = on_meta("lenet5")
    parts = {name: count(module) for name, module in model.features.named_children()}
    assert parts == {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120}
    assert (count(model.f6), count(model.output)) == (10_164, 0)
    found = shapes(model, input_of("lenet5", 1))
    assert [found[f"features.{layer}"][1:] for layer in ("c1", "s2", "c3", "s4", "c5")] == [
        (6, 28, 28),
        (6, 14, 14),
        (16, 10, 10),
        (16, 5, 5),
        (120, 1, 1),
    ]
    assert (found["f6"], found["output"]) == ((1, 84), (1, 10))


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("paper", {"conv1": (96, 55), "pool1": (96, 27), "conv2": (256, 27), "pool2": (256, 13), "conv3": (384, 13),
                   "conv4": (384, 13), "conv5": (256, 13), "pool5": (256, 6)}),
        ("textbook", {"conv1": (96, 56), "pool1": (96, 28), "conv2": (256, 28), "pool2": (256, 14), "conv3": (384, 14),
                      "conv4": (384, 14), "conv5": (256, 14), "pool5": (256, 7)}),
    ],
)  # fmt: skip
def test_alexnet_layers(variant: str, expected: dict[str, tuple[int, int]]) -> None:
    found = shapes(on_meta("alexnet", variant=variant).eval(), input_of("alexnet", 1))
    for name, (channels, size) in expected.items():
        assert found[f"features.{name}"] == (1, channels, size, size), name
    assert found["classifier.fc6"] == found["classifier.fc7"] == (1, 4096)


@pytest.mark.parametrize("name", ["vgg11", "vgg13", "vgg16", "vgg19"])
def test_vgg_stages(name: str) -> None:
    found = shapes(on_meta(name).eval(), input_of(name, 1))
    model = on_meta(name)
    pools = [f"features.{key}" for key, layer in model.features.named_children() if type(layer).__name__ == "MaxPool2d"]
    assert [found[key][1:] for key in pools] == [
        (64, 112, 112),
        (128, 56, 56),
        (256, 28, 28),
        (512, 14, 14),
        (512, 7, 7),
    ]


@pytest.mark.parametrize(
    ("name", "variant", "weight_layers"),
    [("vgg11", "A", 11), ("vgg11", "A-LRN", 11), ("vgg13", "B", 13), ("vgg16", "C", 16), ("vgg16", "D", 16),
     ("vgg19", "E", 19), ("resnet18", "A", 18), ("resnet34", "A", 34), ("resnet50", "A", 50), ("resnet101", "A", 101),
     ("resnet152", "A", 152), ("plain34", "none", 34), ("resnet20_cifar", "A", 20), ("resnet110_cifar", "A", 110)],
)  # fmt: skip
def test_depth_is_the_number_of_weight_layers(name: str, variant: str, weight_layers: int) -> None:
    layers = (torch.nn.Conv2d, torch.nn.Linear)
    assert sum(isinstance(module, layers) for module in on_meta(name, variant=variant).modules()) == weight_layers


@pytest.mark.parametrize("variant", ["paper", "torchvision"])
def test_googlenet_blocks(variant: str) -> None:
    found = shapes(on_meta("googlenet", variant=variant).eval(), input_of("googlenet", 1))
    expected = {"3a": (256, 28), "3b": (480, 28), "4a": (512, 14), "4b": (512, 14), "4c": (512, 14), "4d": (528, 14),
                "4e": (832, 14), "5a": (832, 7), "5b": (1024, 7)}  # fmt: skip
    for block, (channels, size) in expected.items():
        assert found[f"inception{block}"] == (1, channels, size, size), block
    assert found["conv1"] == (1, 64, 112, 112)
    assert found["maxpool1"] == (1, 64, 56, 56)
    assert found["maxpool2"] == (1, 192, 28, 28)


@pytest.mark.parametrize(("name", "wide"), [("resnet18", 1), ("resnet34", 1), ("resnet50", 4), ("plain50", 4)])
def test_resnet_stages(name: str, wide: int) -> None:
    found = shapes(on_meta(name).eval(), input_of(name, 1))
    assert found["conv1"] == (1, 64, 112, 112)
    assert [found[f"layer{i}"][1:] for i in (1, 2, 3, 4)] == [
        (64 * wide, 56, 56),
        (128 * wide, 28, 28),
        (256 * wide, 14, 14),
        (512 * wide, 7, 7),
    ]


def test_cifar_stages() -> None:
    found = shapes(on_meta("resnet20_cifar").eval(), input_of("resnet20_cifar", 1))
    assert [found[f"layer{i}"][1:] for i in (1, 2, 3)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
