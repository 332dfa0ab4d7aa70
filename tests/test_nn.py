"""The layers: drop-ins for their torch.nn namesakes, and the fused ones."""

import copy
import doctest
import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import fastcnn

X = torch.randn(2, 6, 9, 9, generator=torch.Generator().manual_seed(1))
PAIRS = [
    ("Conv2d", (6, 4, 3), dict(stride=2, padding=1, bias=False)),
    ("Conv2d", (6, 4, (3, 1)), dict(padding="same", groups=2)),
    ("Conv2d", (6, 4, 3), dict(padding=2, padding_mode="reflect")),
    ("Conv2d", (6, 4, 3), dict(padding=2, padding_mode="circular", dilation=2)),
    ("LocalResponseNorm", (3,), dict(alpha=0.1)),
    ("MaxPool2d", (3,), dict(stride=2, ceil_mode=True)),
    ("AvgPool2d", (3,), dict(padding=1, count_include_pad=False)),
    ("AdaptiveAvgPool2d", ((3, None),), {}),
    ("Linear", (9, 5), {}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), PAIRS)
def test_layers_are_drop_ins(name, args, kwargs):
    theirs = getattr(nn, name)(*args, **kwargs)
    ours = getattr(fastcnn.nn, name)(*args, **kwargs)
    assert isinstance(ours, type(theirs))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours(X), theirs(X), rtol=1e-4, atol=1e-5)
    assert copy.deepcopy(ours)(X).shape == theirs(X).shape
    assert [p.name for p in inspect.signature(type(ours).forward).parameters.values()][:2] == ["self", "input"]


def test_fused_layers():
    conv = fastcnn.nn.Conv2d(6, 4, 3, padding=1, activation="relu")
    residual = torch.randn(2, 4, 9, 9)
    plain = nn.functional.conv2d(X, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(X, residual), (plain + residual).relu(), rtol=1e-4, atol=1e-5)
    assert "activation='relu'" in repr(conv)
    linear = fastcnn.nn.Linear(9, 5, activation="tanh")
    torch.testing.assert_close(linear(X), nn.functional.linear(X, linear.weight, linear.bias).tanh())
    torch.testing.assert_close(fastcnn.nn.AddReLU()(X, -2 * X), (X - 2 * X).relu())
    torch.testing.assert_close(fastcnn.nn.Concat()([X, X]), torch.cat([X, X], 1))
    pool = fastcnn.nn.Subsample2d(6, 3, activation=None)
    torch.testing.assert_close(pool(X), nn.functional.avg_pool2d(X, 3))
    assert {k: tuple(v.shape) for k, v in pool.state_dict().items()} == {"coefficient": (6,), "bias": (6,)}
    output = fastcnn.nn.RBFOutput(torch.eye(5, 9))
    assert list(output.state_dict()) == ["centers"]
    assert not list(output.parameters())
    assert output(torch.eye(5, 9)).diagonal().eq(0).all()


def test_a_network_trains():
    network = nn.Sequential(
        fastcnn.nn.Conv2d(6, 8, 3, padding=1, activation="relu"),
        fastcnn.nn.LocalResponseNorm(3),
        fastcnn.nn.MaxPool2d(2),
        fastcnn.nn.Subsample2d(8, 2),
        nn.Flatten(),
        fastcnn.nn.Linear(32, 3),
    )
    labels = torch.tensor([0, 2])
    optimizer = torch.optim.SGD(network.parameters(), 0.2)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(network(X), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with torch.no_grad():  # inference sees the trained weights, not packed copies of the first ones
        assert nn.functional.cross_entropy(network(X), labels) < losses[-1] + 1e-3


@pytest.mark.parametrize("name", fastcnn.nn.__all__)
def test_every_layer_has_an_example_that_runs(name):
    layer = getattr(fastcnn.nn, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(layer, name, globs={"torch": torch, "fastcnn": fastcnn})
    assert test.examples
    results = doctest.DocTestRunner().run(test)
    assert results.failed == 0


def test_the_page_on_layers_runs_and_names_them_all():
    page = (Path(__file__).parents[1] / "docs" / "layers.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    namespace = {}
    exec(compile(code, "docs/layers.md", "exec"), namespace)
    assert namespace["scores"].shape == (1, 10)
    assert all(p.grad is not None for p in namespace["net"].parameters())
    x = torch.randn(2, 3, 64, 48)
    net = namespace["net"].eval()
    with torch.no_grad():
        torch.testing.assert_close(fastcnn.optimize(net)(x), net(x), rtol=1e-4, atol=1e-4)
    assert all(f"`{name}`" in page for name in fastcnn.nn.__all__)
