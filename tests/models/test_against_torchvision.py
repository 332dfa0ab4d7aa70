"""Keys, shapes and outputs are torchvision's, where torchvision defines the network."""

import pytest
import torch
from model_helpers import assert_agrees, on_meta, random_state
from torchvision_cpu import models as torchvision_models

# name, arguments for fastcnn, arguments for torchvision, side of the picture
NETWORKS = [
    ("alexnet", {"variant": "torchvision"}, {}, 224),
    ("vgg11", {}, {}, 64),
    ("vgg13", {}, {}, 64),
    ("vgg16", {}, {}, 64),
    ("vgg19", {}, {}, 64),
    ("vgg11_bn", {}, {}, 64),
    ("vgg13_bn", {}, {}, 64),
    ("vgg16_bn", {}, {}, 64),
    ("vgg19_bn", {}, {}, 64),
    ("googlenet", {"variant": "torchvision"}, {"init_weights": False}, 96),
    ("googlenet", {"variant": "torchvision", "aux_logits": False}, {"init_weights": False, "aux_logits": False}, 96),
    ("googlenet", {"variant": "torchvision", "transform_input": True},
     {"init_weights": False, "transform_input": True}, 65),
    ("resnet18", {}, {}, 96),
    ("resnet34", {}, {}, 75),
    ("resnet50", {}, {}, 96),
    ("resnet101", {}, {}, 64),
    ("resnet152", {}, {}, 64),
]  # fmt: skip
SLOW = {"vgg13", "vgg19", "vgg11_bn", "vgg13_bn", "vgg19_bn", "resnet101", "resnet152"}


def torchvision_on_meta(name: str, **arguments: object) -> torch.nn.Module:
    with torch.device("meta"):
        return getattr(torchvision_models, name)(**arguments)


@pytest.mark.parametrize(("name", "ours", "theirs", "size"), NETWORKS)
def test_keys_and_shapes(name: str, ours: dict, theirs: dict, size: int) -> None:
    actual, expected = on_meta(name, **ours).state_dict(), torchvision_on_meta(name, **theirs).state_dict()
    assert list(actual) == list(expected)
    assert [value.shape for value in actual.values()] == [value.shape for value in expected.values()]


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "size"),
    [pytest.param(*row, marks=[pytest.mark.slow] * (row[0] in SLOW)) for row in NETWORKS],
)
def test_outputs(name: str, ours: dict, theirs: dict, size: int) -> None:
    model, twin = on_meta(name, **ours).eval(), torchvision_on_meta(name, **theirs).eval()
    state = random_state(twin.state_dict())
    model.load_state_dict(state, assign=True)
    twin.load_state_dict(state, assign=True)
    x = torch.randn(1, 3, size, size + 3)
    with torch.no_grad():
        expected = twin(x)
    assert_agrees(model, x, expected)


def test_googlenet_auxiliary_heads_in_training() -> None:
    """Training mode: all three outputs and every gradient, dropout off and batch statistics on.

    In float64: in float32 a rounding that moves one value across ReLU's corner changes gradients by a percent.
    """
    model, twin = (
        on_meta("googlenet", variant="torchvision", num_classes=7),
        torchvision_on_meta("googlenet", num_classes=7, init_weights=False),
    )
    state = random_state(twin.state_dict())
    for net in (model, twin):
        net.load_state_dict({key: value.clone() for key, value in state.items()}, assign=True)
        net.double().train()
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    ours, theirs = model(x), twin(x)
    assert ours._fields == theirs._fields == ("logits", "aux_logits2", "aux_logits1")
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected)
    sum(out.square().mean() for out in ours).backward()
    sum(out.square().mean() for out in theirs).backward()
    expected_gradients = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected_gradients[name].grad, msg=lambda text, n=name: f"{n}: {text}"
        )
