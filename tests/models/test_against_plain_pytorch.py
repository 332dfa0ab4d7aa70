"""Outputs agree with an independent definition in plain PyTorch, where torchvision defines no such network."""

import plain_models as plain
import pytest
import torch
from model_helpers import assert_agrees, on_meta, random_state, randomised, relative_error

import fastcnn.models


@pytest.mark.parametrize("squashing", ["scaled_tanh", "tanh", "sigmoid"])
def test_lenet_paper(squashing: str) -> None:
    model = fastcnn.models.lenet5(squashing=squashing).eval()
    state = model.state_dict()
    centers = state["output.centers"]
    state = {**random_state(state), "output.centers": centers}
    model.load_state_dict(state)
    x = torch.randn(3, 1, 32, 32)
    assert_agrees(model, x, plain.lenet_paper(state, x, squashing))


def test_lenet_modern() -> None:
    model = randomised("lenet5", variant="modern")
    x = torch.randn(3, 1, 32, 32)
    assert_agrees(model, x, plain.lenet_modern(model.state_dict(), x))


@pytest.mark.parametrize("variant", ["paper", "textbook"])
def test_alexnet(variant: str) -> None:
    model = randomised("alexnet", variant=variant, num_classes=10)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert_agrees(model, x, plain.alexnet(model.state_dict(), x, variant))


@pytest.mark.parametrize(
    ("name", "variant", "stages", "lrn"),
    [("vgg11", "A-LRN", ("3", "3", "33", "33", "33"), True), ("vgg16", "C", ("33", "33", "331", "331", "331"), False)],
)
def test_vgg(name: str, variant: str, stages: tuple[str, ...], lrn: bool) -> None:
    model = randomised(name, variant=variant, num_classes=10)
    x = torch.randn(1, 3, 64, 75)
    with torch.no_grad():
        assert_agrees(model, x, plain.vgg(model.state_dict(), x, stages, lrn))


def test_googlenet_paper() -> None:
    model = randomised("googlenet", variant="paper", num_classes=10)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        logits, aux2, aux1 = plain.googlenet_paper(model.state_dict(), x)
        assert_agrees(model, x, logits)
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        outputs = model(x)
    assert outputs._fields == ("logits", "aux_logits2", "aux_logits1")
    for actual, expected in zip(outputs, (logits, aux2, aux1), strict=True):
        assert relative_error(actual, expected) <= 1e-4


@pytest.mark.parametrize(
    ("name", "variant", "size"),
    [
        ("resnet18", "A", 75),
        ("resnet50", "A", 64),
        ("plain18", "none", 75),
        ("plain50", "none", 64),
        ("resnet20_cifar", "A", 32),
        ("resnet20_cifar", "B", 32),
        ("plain20_cifar", "none", 32),
        ("resnet56_cifar", "A", 32),
        pytest.param("resnet34", "A", 75, marks=pytest.mark.slow),
        pytest.param("plain34", "none", 75, marks=pytest.mark.slow),
        pytest.param("resnet110_cifar", "A", 32, marks=pytest.mark.slow),
        pytest.param("resnet1202_cifar", "A", 32, marks=pytest.mark.slow),
    ],
)
def test_resnet(name: str, variant: str, size: int) -> None:
    model = randomised(name, variant=variant, num_classes=10)
    if "1202" in name:  # each of its 600 blocks would double the variance: a float32 ends at 2^128
        for module in model.modules():
            if isinstance(module, fastcnn.nn.BasicBlock):
                module.bn2.weight.data *= 0.1
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert_agrees(model, x, plain.resnet(model.state_dict(), x, variant, cifar="cifar" in name))


def test_dense_vgg_scores_every_position() -> None:
    model = randomised("vgg11", num_classes=10)
    dense = fastcnn.models.to_dense(model)
    x = torch.randn(1, 3, 224, 256)
    with torch.no_grad():
        expected = plain.vgg(model.state_dict(), x, ("3", "3", "33", "33", "33"), dense=True)
        assert expected.shape == (1, 10, 1, 2)
        assert_agrees(dense, x, expected)
        assert relative_error(dense(x[..., :224, :224])[:, :, 0, 0], model(x[..., :224, :224])) <= 1e-4


def test_dense_evaluation_averages_positions_scales_and_flip() -> None:
    dense = fastcnn.models.to_dense(on_meta("vgg11"))
    dense.features = torch.nn.Conv2d(3, 8, 32, stride=32)  # a small net of the same geometry
    dense.classifier = torch.nn.Conv2d(8, 10, 7)
    x = torch.randn(2, 3, 240, 300)

    def resized(size: int) -> torch.Tensor:
        shape = [size, round(300 * size / 240)]
        return torch.nn.functional.interpolate(x, shape, mode="bilinear", antialias=True)

    with torch.no_grad():
        maps = [dense(view) for size in (240, 256) for view in (resized(size), resized(size).flip(3))]
        scores = [m.mean((2, 3)) for m in maps]
        torch.testing.assert_close(dense.evaluate(x, (240, 256)), sum(scores) / 4)
        torch.testing.assert_close(dense.evaluate(x, (240,), flip=False), scores[0])
        probabilities = dense.evaluate(x, (240, 256), softmax=True)
        torch.testing.assert_close(probabilities, sum(s.softmax(1) for s in scores) / 4)


def test_dense_vgg_has_the_weights_of_the_net() -> None:
    with torch.device("meta"):
        model = fastcnn.models.vgg16()
        dense = fastcnn.models.to_dense(model)
    assert sum(p.numel() for p in dense.parameters()) == 138_357_544
    assert dense.classifier.fc6.weight.shape == (4096, 512, 7, 7)
    assert dense(torch.empty(1, 3, 384, 512, device="meta")).shape == (1, 1000, 6, 10)


@pytest.mark.parametrize("name", ["googlenet", "resnet20_cifar", "lenet5"])
def test_inference_equals_training_path(name: str) -> None:
    """Slices and remembered weights without gradients give what concatenation and fresh weights give with them."""
    torch.manual_seed(0)
    model = fastcnn.models.get_model(name).eval()
    x = torch.randn(1, 1, 32, 32) if name == "lenet5" else torch.randn(1, 3, 64, 64)
    with_gradients = model(x)
    assert with_gradients.requires_grad
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(model(x), with_gradients.detach(), rtol=1e-4, atol=1e-5)


def test_on_meta_networks_need_no_memory() -> None:
    assert all(p.is_meta for p in on_meta("vgg19").parameters())
