"""Our operators under the rest of PyTorch: torch.compile, torch.export, opcheck, autocast, the profiler."""

import pytest
import torch
import torch.nn.functional as TF
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fastcnn
import fastcnn.functional as F
from fastcnn.core.operator import OPERATORS

# Each operator's own problems, as far as they are small.
SAMPLES = [
    pytest.param(operator, case, id=f"{name}-{i}")
    for name, operator in OPERATORS.items()
    for i, case in enumerate(operator.cases)
    if sum(torch.Size(shape).numel() for shape in case.shapes if shape is not None) < 4000
]


def test_every_operator_has_a_sample():
    assert {sample.values[0].name for sample in SAMPLES} == set(OPERATORS)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(("operator", "case"), SAMPLES)
def test_opcheck(operator, case, gradients):
    tensors = [None if shape is None else torch.randn(shape, requires_grad=gradients) for shape in case.shapes]
    params = operator.normalise(tensors, case.params)
    takes_list = "Tensor[]" in str(operator._torch_op._schema)
    torch.library.opcheck(operator._torch_op, ([tensors] if takes_list else tensors) + list(params))


class Net(nn.Module):
    """One of each of our layers."""

    def __init__(self):
        super().__init__()
        n = fastcnn.nn
        self.conv, self.norm = n.Conv2d(3, 8, 3, 2, 1, activation="relu"), n.LocalResponseNorm(5)
        self.max, self.avg, self.join = n.MaxPool2d(2), n.AvgPool2d(2), n.Concat()
        self.wide, self.add = n.Conv2d(16, 16, 1), n.AddReLU()
        self.subsample, self.pool = n.Subsample2d(16), n.AdaptiveAvgPool2d(1)
        self.fc, self.rbf = n.Linear(16, 6, activation="tanh"), n.RBFOutput(torch.randn(4, 6))

    def forward(self, x):
        x = self.norm(self.conv(x))
        x = self.join([self.max(x), self.avg(x)])
        x = self.add(self.wide(x), x)
        return self.rbf(self.fc(self.pool(self.subsample(x)).flatten(1)))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_compile_makes_no_graph_break(mode):
    net, x = Net(), torch.randn(2, 3, 16, 16)
    torch._dynamo.reset()
    with mode():
        expected = net(x)
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)
        if mode is torch.enable_grad:
            grads = torch.autograd.grad(compiled(x).sum(), list(net.parameters()))
            wanted = torch.autograd.grad(net(x).sum(), list(net.parameters()))
            torch.testing.assert_close(grads, wanted)


def test_compile_of_an_optimized_network_makes_no_graph_break():
    net, x = Net().eval(), torch.randn(2, 3, 16, 16)
    torch._dynamo.reset()
    compiled = torch.compile(fastcnn.optimize(net), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)


def test_export():
    net, x = Net().eval(), torch.randn(2, 3, 16, 16)
    program = torch.export.export(net, (x,))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    # every operator but the one that no layer of `Net` is made of
    assert {f"fastcnn.{name}.default" for name in set(OPERATORS) - {"scale_channels"}} <= names
    torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.parametrize("strict", [False, True])
def test_export_of_an_optimized_network(strict, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        fastcnn.optimize(net), (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch},), strict=strict
    )
    torch.export.save(program, tmp_path / "net.pt2")
    loaded, x = torch.export.load(tmp_path / "net.pt2"), torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(loaded.module()(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    x, w = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    with torch.autocast("cpu", dtype):
        ours, theirs = F.conv2d(x, w), TF.conv2d(x, w)
        assert F.linear(x, torch.randn(4, 8)).dtype == dtype
        problem = fastcnn.explain(F.conv2d, x, w).choices[-1].problem
    assert ours.dtype == theirs.dtype == problem.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_profiler_shows_the_operators():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, torch.no_grad():
        F.conv2d(torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3))
        fastcnn.optimize(Net())(torch.randn(1, 3, 16, 16))
    names = {event.key for event in profile.key_averages()}
    assert {"fastcnn::conv2d", "fastcnn::plan"} <= names


def test_flop_counter_counts_as_for_pytorch():
    x, counts = torch.randn(2, 4, 8, 8), []
    for library in (fastcnn.nn, nn):
        net = nn.Sequential(library.Conv2d(4, 6, 3, groups=2), nn.Flatten(), library.Linear(216, 5))
        with FlopCounterMode(display=False) as counter:
            net(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_layers_are_scripted_as_pytorchs(activation):
    net = nn.Sequential(fastcnn.nn.Conv2d(3, 4, 3, activation=activation), fastcnn.nn.MaxPool2d(2)).eval()
    x = torch.randn(2, 3, 9, 8)
    scripted = torch.jit.script(net)
    torch.testing.assert_close(scripted(x), net(x), rtol=1e-4, atol=1e-5)
    assert {p.data_ptr() for p in scripted.parameters()} == {p.data_ptr() for p in net.parameters()}


def test_sizes_that_are_tensors():
    """As torch.jit.trace has them."""

    class Pooled(nn.Module):
        def forward(self, x):
            return F.avg_pool2d(x, x.size()[2:])

    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(torch.jit.trace(Pooled(), x)(x), TF.avg_pool2d(x, (9, 8)))
    torch.testing.assert_close(F.max_pool2d(x, torch.tensor(2)), TF.max_pool2d(x, 2))
    with pytest.raises(TypeError, match="kernel_size is tensor"):
        F.max_pool2d(x, torch.tensor(2.0))


def test_functions_of_fixed_kernels_are_traced_by_fx():
    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

        def forward(self, x):
            return F.conv3x3_relu(x, self.weight)

    net, x = Stem(), torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(torch.fx.symbolic_trace(net)(x), net(x))
