"""What is timed: cases come from the networks themselves, and the plain twin computes what the network does."""

from __future__ import annotations

import pytest
import torch

import fastcnn
from fastcnn.workbench.report import suite
from fastcnn.workbench.report.cases import NETWORKS, Case, Network, capture, layers
from fastcnn.workbench.report.contenders import fuse_epilogues
from fastcnn.workbench.report.plain import EAGER, conv2d, plain


def test_layers_are_those_of_the_network():
    calls = capture("vgg16")
    convolutions = [call for call in calls if call.function == "conv2d"]
    assert [call.shapes["weight"][:2] for call in convolutions][:3] == [(64, 3), (64, 64), (128, 64)]
    assert len(convolutions) == 13
    assert sum(call.function == "linear" for call in calls) == 3
    assert all(dict(call.arguments)["activation"] == "relu" and "bias" in call.shapes for call in convolutions)


def test_shared_layers_count_their_networks():
    found = layers(("alexnet", "vgg16"))
    shared = [networks for call, networks in found.items() if call.label == "linear 4096->4096 relu"]
    assert shared == [(("alexnet", 1), ("vgg16", 1))]
    assert next(n for c, n in found.items() if c.label == "conv2d 3x3 512->512 14x14") == (("vgg16", 3),)


def test_work_of_the_networks():
    # Published multiply-adds, doubled: AlexNet (one column) .71 G, VGG-16 15.5 G.
    assert Case("network", "alexnet", "alexnet").flops == pytest.approx(1.43e9, rel=0.01)
    assert Case("network", "vgg16", "vgg16").flops == pytest.approx(30.95e9, rel=0.01)
    eight = Case("network", "alexnet", "alexnet", batch=8)
    assert eight.flops == 8 * Case("network", "alexnet", "alexnet").flops
    weights = sum(layer.weight_bytes for layer in eight.work)
    assert weights == 4 * 61_100_840


def test_ids_are_unique():
    plan = suite.plan("cpu", quick=True, networks=("lenet5", "alexnet", "lenet5_paper", "alexnet_paper"))
    cases = [case for kind in ("op", "network", "overhead") for case in plan.cases(kind)]
    for attribute in ("id", "group"):
        names = [(case.kind, getattr(case, attribute)) for case in cases]
        assert len(names) == len(set(names))


@pytest.mark.slow
def test_ids_of_the_whole_suite_are_unique():
    plan = suite.plan("cpu", quick=False)
    names = [(case.kind, case.id) for kind in ("op", "network", "overhead") for case in plan.cases(kind)]
    assert len(names) == len(set(names))


def test_device_bounds_the_batches():
    batches = {(case.label, case.batch) for case in suite.plan("cpu", networks=("lenet5", "vgg16")).cases("network")}
    assert ("lenet5", 128) in batches
    assert ("vgg16", 8) in batches
    assert ("vgg16", 32) not in batches  # 990 GFLOP: ten seconds a call on two cores


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"networks": ("lenet6",)}, "unknown network 'lenet6'; allowed: lenet5, alexnet"),
        ({"contenders": ("fastcnn", "tensorrt")}, "unknown contender 'tensorrt'"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        suite.plan(**arguments)


class EveryFunction(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = fastcnn.nn.Conv2d(3, 8, 3, padding=1, activation="relu")
        self.project = fastcnn.nn.Conv2d(8, 8, 1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.relu = torch.nn.ReLU(inplace=True)
        self.subsample = fastcnn.nn.Subsample2d(16)
        self.linear = fastcnn.nn.Linear(16, 5, activation="scaled_tanh")
        self.rbf = fastcnn.nn.RBFOutput(torch.randn(4, 5))

    def forward(self, x):
        F = fastcnn.functional
        x = F.local_response_norm(self.conv(x), 5)
        y = self.norm(self.project(x))
        y = F.add_relu(F.max_pool2d(x, 3, 1, 1), y)
        z = F.conv2d(x, self.project.weight, None, residual=y, activation="sigmoid")
        x = self.subsample(F.concat([y, F.avg_pool2d(z, 3, 1, 1)]))
        return self.rbf(self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)))


def test_plain_twin_agrees_and_calls_pytorch_alone():
    torch.manual_seed(0)
    model = EveryFunction().eval()
    torch.nn.init.normal_(model.norm.running_mean)
    x = torch.randn(2, 3, 9, 11)
    twin = plain(model)
    with torch.no_grad(), fastcnn.use_backend("reference"):
        torch.testing.assert_close(twin(x), model(x))
    assert not any(node.target in EAGER for node in twin.graph.nodes)


def test_every_function_has_a_plain_form():
    functions = {getattr(fastcnn.functional, name) for name in fastcnn.functional.__all__}
    special = {f for f in EAGER if f.__module__ == "fastcnn.functional"}
    assert functions == special


def test_fused_cudnn_baseline_folds_what_a_user_would():
    """The graph that cuDNN's fused calls run on a GPU, here with a stand-in for the call."""
    torch.manual_seed(0)
    model = fastcnn.nn.Bottleneck(8, 4, stride=2).eval()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    calls = []

    def convolution(*args, **kwargs):
        calls.append((kwargs.get("activation"), kwargs.get("residual") is not None))
        return conv2d(*args, **kwargs)

    x = torch.randn(2, 8, 9, 9)
    twin = plain(model)
    fused = fuse_epilogues(twin, convolution)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), twin(x), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for n in fused.graph.nodes if n.op == "call_module"
                   for m in [fused.get_submodule(n.target)])  # fmt: skip
    assert sorted(calls, key=str) == sorted([("relu", False), ("relu", False), ("relu", True), (None, False)], key=str)


def test_truth_sees_folded_statistics():
    """Batch normalisation is made to matter: a contender that leaves it out fails its check."""
    NETWORKS["tiny"] = Network("resnet20_cifar", None, (3, 32, 32))
    try:
        workload = Case("network", "tiny", "tiny").build()
        truth = workload.truth()
        for module in workload.plain.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
        assert (workload.truth() - truth).norm() / truth.norm() > 1e-2
    finally:
        del NETWORKS["tiny"]
