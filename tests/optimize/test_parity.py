"""optimize(model) computes what the model computes, for classifiers of many families, and leaves the model as it is."""

import copy

import pytest
import torch
import zoo

import fastcnn


def relative_error(y, expected):
    return ((y.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("name", [*zoo.QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in zoo.SLOW)])
def test_classifier(name):
    model = zoo.build(name)
    before = copy.deepcopy(model.state_dict())
    optimized = fastcnn.optimize(model)
    for batch in (1, 3):
        for size in zoo.SIZES.get(name, (64, 96)):
            x = torch.randn(batch, 3, size, size)
            with torch.no_grad():
                expected = model(x)
            assert relative_error(optimized(x), expected) < 1e-4, (batch, size)
            assert relative_error(optimized(x), expected) < 1e-4, "the second run"
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize("name", ["lenet5", "alexnet", "googlenet", "resnet18", "vgg11"])
def test_own_networks(name):
    builders = {"alexnet": {"variant": "paper"}, "googlenet": {"variant": "paper"}}
    model = zoo.perturbed(getattr(fastcnn.models, name)(**builders.get(name, {})))
    optimized = fastcnn.optimize(model)
    sizes = {"lenet5": (32, 32), "alexnet": (224, 224), "googlenet": (64, 95)}
    for batch, size in enumerate(sizes.get(name, (64, 96)), 1):
        x = torch.randn(batch, 1 if name == "lenet5" else 3, size, size)
        with torch.no_grad():
            expected = model(x)
        assert relative_error(optimized(x), expected) < 1e-4
    assert len(optimized.program(x).plans) == 1
    assert optimized.__fastcnn_explain__(x).share == 1
