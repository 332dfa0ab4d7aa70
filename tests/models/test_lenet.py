"""LeNet-5's own parts: connection table, prototypes, losses, initial weights, training."""

import copy

import pytest
import torch
from sklearn.datasets import load_digits

import fastcnn.models
from fastcnn.models import lenet5, map_loss, right_class_loss
from fastcnn.models.lenet import C3_TABLE, PartialConv2d, digit_prototypes


def test_table_has_the_papers_connections() -> None:
    assert [len(maps) for maps in C3_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert sum(len(maps) for maps in C3_TABLE) == 60
    assert len({tuple(sorted(maps)) for maps in C3_TABLE}) == 16
    # Every S2 map is read ten times: the table favours none.
    assert [sum(c in maps for maps in C3_TABLE) for c in range(6)] == [10] * 6
    layer = PartialConv2d(6, C3_TABLE, 5)
    assert sum(p.numel() for p in layer.parameters()) == 1_516
    dense = layer.dense_weight()
    assert dense.shape == (16, 6, 5, 5)
    for k, maps in enumerate(C3_TABLE):
        assert [c for c in range(6) if dense[k, c].count_nonzero()] == sorted(maps)


def test_partial_convolution_sees_changed_weights() -> None:
    layer = PartialConv2d(6, C3_TABLE, 5, activation="tanh")
    x = torch.randn(1, 6, 14, 14)
    with torch.no_grad():
        layer(x)
        layer.weight.mul_(2)
        twin = copy.deepcopy(layer)
        twin.weight.mul_(0.5)
        expected = torch.nn.functional.conv2d(x, layer.dense_weight(), layer.bias).tanh()
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
        expected = torch.nn.functional.conv2d(x, twin.dense_weight(), twin.bias).tanh()
        torch.testing.assert_close(twin(x), expected, rtol=1e-4, atol=1e-5)


def test_partial_convolution_trains_after_inference_mode() -> None:
    layer = PartialConv2d(6, C3_TABLE, 5)
    x = torch.randn(1, 6, 14, 14)
    with torch.inference_mode():
        layer(x)
        layer.dense_weight()
    layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_prototypes_are_ten_bitmaps_far_apart() -> None:
    centers = digit_prototypes()
    assert centers.shape == (10, 84)
    assert centers.abs().eq(1).all()
    different_pixels = torch.cdist(centers, centers, p=1) / 2
    assert (different_pixels + 84 * torch.eye(10)).min() >= 10
    model = lenet5()
    assert torch.equal(model.output.centers, centers)
    assert not any(p is model.output.centers for p in model.parameters())
    assert set(lenet5(squashing="sigmoid").output.centers.unique().tolist()) == {0.0, 1.0}


def test_own_prototypes() -> None:
    centers = torch.randn(3, 84).sign()
    model = lenet5(num_classes=3, prototypes=centers)
    assert torch.equal(model.output.centers, centers)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 3)


def test_losses_are_the_papers_equations() -> None:
    y = torch.rand(4, 10, dtype=torch.float64) * 30
    target = torch.tensor([3, 0, 9, 9])
    eq8 = sum(y[n, target[n]] for n in range(4)) / 4
    torch.testing.assert_close(right_class_loss(y, target), eq8)
    for j in (0.1, 5.0, 20.0):
        competition = [torch.log(torch.exp(torch.tensor(-j)) + torch.exp(-y[n]).sum()) for n in range(4)]
        eq9 = eq8 + sum(competition) / 4
        torch.testing.assert_close(map_loss(y, target, j), eq9, check_dtype=False)


def test_map_loss_is_finite_far_away() -> None:
    distances = torch.full((2, 10), 5000.0, requires_grad=True)
    loss = map_loss(distances, torch.tensor([1, 2]), j=200.0)
    loss.backward()
    assert loss.isfinite()
    assert distances.grad.isfinite().all()


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"distances has shape \(10,\), expected \(N, classes\)", (torch.rand(10), torch.tensor([1]))),
        (ValueError, r"target has shape \(2,\), expected \(3,\)", (torch.rand(3, 10), torch.tensor([1, 2]))),
        (TypeError, "target is torch.float32, expected torch.int64", (torch.rand(1, 10), torch.rand(1))),
        (ValueError, "j is 0, expected a positive number", (torch.rand(1, 10), torch.tensor([1]), 0)),
    ],
)
def test_losses_refuse(error: type[Exception], message: str, arguments: tuple) -> None:
    with pytest.raises(error, match=message):
        map_loss(*arguments)


def test_initial_weights_are_the_papers() -> None:
    torch.manual_seed(0)
    model = lenet5()
    fan_ins = {"features.c1": 25, "features.s2": 4, "features.s4": 4, "features.c5": 400, "f6": 120}
    for name, fan_in in fan_ins.items():
        layer = model.get_submodule(name)
        values = layer.coefficient if hasattr(layer, "coefficient") else layer.weight
        assert values.abs().max() <= 2.4 / fan_in
        assert values.abs().max() > 0.5 * 2.4 / fan_in
        assert layer.bias.count_nonzero() == 0
    dense = model.features.c3.dense_weight()
    for k, maps in enumerate(C3_TABLE):
        limit = 2.4 / (25 * len(maps))
        assert 0.5 * limit < dense[k].abs().max() <= limit


def test_prediction_is_the_nearest_prototype_or_the_largest_logit() -> None:
    x = torch.randn(5, 1, 32, 32)
    paper, modern = lenet5(), lenet5("modern")
    assert torch.equal(paper.predict(x), paper(x).argmin(1))
    assert torch.equal(modern.predict(x), modern(x).argmax(1))


@pytest.mark.parametrize("loss", [map_loss, pytest.param(right_class_loss, marks=pytest.mark.slow)])
def test_learns_real_digits(loss) -> None:
    """Three passes over half of scikit-learn's digits: far above the 10 % of chance, with either loss."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    images = torch.nn.functional.interpolate(images, size=28, mode="bilinear")
    images = torch.nn.functional.pad(images, (2, 2, 2, 2)) * 1.275 - 0.1
    target = torch.tensor(digits.target)
    model = lenet5()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(3):
        for i in range(0, 896, 32):
            optimizer.zero_grad()
            loss(model(images[i : i + 32]), target[i : i + 32]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model.predict(images[896:]) == target[896:]).float().mean()
    assert accuracy > 0.8


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("unknown variant 'old', expected one of 'paper', 'modern'", {"variant": "old"}),
        ("unknown squashing 'relu'", {"squashing": "relu"}),
        (r"num_classes is 7, .* give prototypes of shape \(7, 84\)", {"num_classes": 7}),
        (r"prototypes has shape \(10, 80\), expected \(10, 84\)", {"prototypes": torch.ones(10, 80)}),
        ("belong to 'paper', variant is 'modern'", {"variant": "modern", "squashing": "sigmoid"}),
    ],
)
def test_refuses(message: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=message):
        fastcnn.models.lenet5(**arguments)
