"""The same passes and plans, wherever a network comes from: a module, an export, torch.compile, TorchScript."""

from pathlib import Path

import pytest
import torch
import zoo
from torch import nn

import fastcnn
from fastcnn.optimize import Optimized, dynamo


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x))) * self.scale
        return self.last(torch.nn.functional.max_pool2d(y, 2).mean((2, 3)))


@pytest.fixture
def net():
    return zoo.perturbed(Net())


@pytest.fixture
def x():
    return torch.randn(2, 3, 9, 7)


def test_exported_programs(net, x):
    exported = torch.export.export(net, (x,))
    expected = [row.operator for row in fastcnn.explain(fastcnn.optimize(net), x).rows]
    for source in (exported, exported.module(), exported.run_decompositions({})):
        optimized = fastcnn.optimize(source)
        torch.testing.assert_close(optimized(x), net(x), rtol=1e-4, atol=1e-5)
        report = fastcnn.explain(optimized, x)
        assert report.share == 1
        assert [row.operator for row in report.rows] == expected


def test_torch_compile(net, x):
    torch._dynamo.reset()
    made = []

    def backend(graph, inputs):
        made.append(dynamo.backend(graph, inputs))
        return made[-1]

    compiled = torch.compile(net, backend=backend)
    for batch in (2, 2, 3, 5, 2):
        x = torch.randn(batch, 3, 9, 7)
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
    net.conv.weight.mul_(2)
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
    held = [cell.cell_contents for cell in getattr(made[0], "__wrapped__", made[0]).__closure__]
    (plans,) = [fast._fastcnn._captured.values() for fast in held if isinstance(fast, Optimized)]
    assert all(len(captured.program.plans) == 1 for captured in plans)
    with torch.enable_grad():
        compiled(x).sum().backward()
    assert net.conv.weight.grad is not None


def test_the_backend_is_found_by_its_name():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '[project.entry-points.torch_dynamo_backends]\nfastcnn = "fastcnn.optimize.dynamo:backend"' in project


def test_scripted_and_traced_modules(net, x):
    for source in (torch.jit.script(net), torch.jit.trace(net, x)):
        with pytest.warns(UserWarning, match="a scripted module runs as it is"):
            optimized = fastcnn.optimize(source)
        assert optimized is source


def test_an_optimized_module_is_optimized_once(net, x):
    twice = fastcnn.optimize(fastcnn.optimize(net))
    assert torch.equal(twice(x), fastcnn.optimize(net)(x))
    assert type(twice).__mro__.count(Net) == 1
