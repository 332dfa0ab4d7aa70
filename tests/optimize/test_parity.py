"""optimize(model) computes what the model computes, for classifiers of many families, and leaves the model as it is."""

import copy

import pytest
import torch
import zoo

import fastcnn
from fastcnn.core import native


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
    assert len(zoo.program(optimized, x).plans) == 1
    assert optimized.__fastcnn_explain__(x).share == 1


@pytest.mark.parametrize("variant", ["modern", "paper"])
@pytest.mark.parametrize("threads", [1, 2])
def test_batch_in_slices(variant, threads, monkeypatch):
    """A small network runs slice by slice of its batch; each image must still get its own result."""
    # A second level of 2 MB, as some processors have, holds all twelve images.
    monkeypatch.setattr(native.extension.cpu, "caches", lambda: (32 << 10, 1 << 20, 32 << 20))
    model = zoo.perturbed(fastcnn.models.lenet5(variant=variant))
    optimized = fastcnn.optimize(model)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for batch, slices in ((1, 1), (7, 7), (12, None), (64, None)):
            whole = torch.randn(batch, 2, 32, 32)
            layouts = [whole[:, :1], whole[:, 1:].contiguous(), whole.to(memory_format=torch.channels_last)[:, 1:]]
            for x in layouts:
                with torch.no_grad():
                    expected = model(x)
                y = optimized(x)
                assert y.shape == expected.shape
                assert relative_error(y, expected) < 1e-4, batch
            (plan,) = zoo.program(optimized, x).plans
            assert plan.slices > 1 if slices is None else plan.slices in (1, slices)
    finally:
        torch.set_num_threads(before)


def test_what_mixes_images_is_not_sliced():
    class Mixing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 6, 3)

        def forward(self, x):
            y = self.conv(x).relu()
            return torch.nn.functional.max_pool2d(y, 2) + y.mean((0, 2, 3), keepdim=True)

    model = Mixing().eval()
    optimized = fastcnn.optimize(model)
    x = torch.randn(8, 1, 20, 20)
    with torch.no_grad():
        assert relative_error(optimized(x), model(x)) < 1e-5
