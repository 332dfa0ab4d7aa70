"""The CUDA backend end to end: functions, dispatch and bindings, with the emulator in the GPU's place."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from harness import assert_parity
from torch import nn

import fastcnn
import fastcnn.functional
from fastcnn.backends import cuda as cuda_backend
from fastcnn.core import tuning_file
from fastcnn.core.backend import use_backend
from fastcnn.core.candidate import Unsupported
from fastcnn.ops.conv2d import cuda as conv2d_cuda
from fastcnn.ops.conv2d.contract import tuning_key
from fastcnn.ops.conv2d.cpu import native_problem
from fastcnn.ops.conv2d.cuda import conv2d_plan
from fastcnn.optimize import vocabulary as v
from fastcnn.workbench.report.cases import Call, Case
from fastcnn.workbench.report.measure import relative_error
from fastcnn.workbench.tune import gpu as tune_gpu

pytestmark = pytest.mark.emulated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_functions(emulated_device, dtype):
    torch.manual_seed(0)
    f = fastcnn.functional
    x, weight, bias = torch.randn(2, 16, 9, 9), torch.randn(24, 16, 3, 3) / 12, torch.randn(24)
    x, weight, bias = (t.to(dtype) for t in (x, weight, bias))
    coefficient = torch.randn(16).to(dtype)
    features, matrix, offset = torch.randn(3, 20).to(dtype), torch.randn(7, 20).to(dtype), torch.randn(7).to(dtype)

    with use_backend("cuda"):
        results = {
            "conv2d": f.conv2d(x, weight, bias, padding=1, activation="relu"),
            "max_pool2d": f.max_pool2d(x, 3, 2),
            "avg_pool2d": f.avg_pool2d(x, 2, 2),
            "adaptive_avg_pool2d": f.adaptive_avg_pool2d(x, 1),
            "lrn": f.local_response_norm(x, 5, 1e-2, 0.75, 1.0),
            "linear": f.linear(features, matrix, offset),
            "concat": f.concat([x, x]),
            "add_relu": f.add_relu(x, x),
            "rbf": f.rbf(features, matrix),
            "subsample2d": f.subsample2d(x, coefficient, coefficient),
        }
    x, weight, bias, features, matrix, offset = (t.double() for t in (x, weight, bias, features, matrix, offset))
    exact = {
        "conv2d": torch.relu(F.conv2d(x, weight, bias, padding=1)),
        "max_pool2d": F.max_pool2d(x, 3, 2),
        "avg_pool2d": F.avg_pool2d(x, 2, 2),
        "adaptive_avg_pool2d": F.adaptive_avg_pool2d(x, 1),
        "lrn": F.local_response_norm(x, 5, 1e-2, 0.75, 1.0),
        "linear": F.linear(features, matrix, offset),
        "concat": torch.cat([x, x], 1),
        "add_relu": torch.relu(x + x),
        "rbf": ((features[:, None] - matrix) ** 2).sum(-1),
    }
    for name, value in exact.items():
        tolerance = 1e-5 if dtype == torch.float32 else 2e-3
        assert torch.allclose(results[name].double(), value, rtol=tolerance, atol=tolerance), name
        assert results[name].dtype == dtype
    assert set(emulated_device) == {
        "conv2d", "pool2d", "adaptive_avg_pool2d", "lrn", "copy_slice", "add_relu", "rbf", "subsample2d"
    }  # fmt: skip


def test_a_changed_precision_is_seen(emulated_device):
    x, weight = torch.randn(1, 8, 5, 5), torch.randn(8, 8, 3, 3)
    exact = F.conv2d(x.double(), weight.double())
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = False
        strict = fastcnn.functional.conv2d(x, weight)
        torch.backends.cudnn.allow_tf32 = True
        rounded = fastcnn.functional.conv2d(x, weight)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert (strict.double() - exact).abs().max() < 1e-5 < (rounded.double() - exact).abs().max() < 5e-2


def test_out_slices_and_residual(emulated_device):
    x, weight = torch.randn(2, 8, 6, 6), torch.randn(16, 8, 1, 1)
    residual = torch.randn(2, 16, 6, 6)
    wide = torch.zeros(2, 40, 6, 6).contiguous(memory_format=torch.channels_last)
    out = fastcnn.functional.conv2d(x, weight, residual=residual, activation="relu", out=wide[:, 8:24])
    assert out.data_ptr() == wide[:, 8:24].data_ptr()
    assert_parity(wide[:, 8:24], torch.relu(F.conv2d(x.double(), weight.double()) + residual.double()),
                  torch.relu(F.conv2d(x, weight) + residual))  # fmt: skip
    assert not wide[:, :8].any()
    assert not wide[:, 24:].any()


@pytest.mark.parametrize("sliced", [False, True])
def test_lrn_with_its_max_pool(emulated_device, sliced):
    x = torch.randn(2, 24, 9, 7).contiguous(memory_format=torch.channels_last)
    x = x[:, 8:24] if sliced else x
    y = v.lrn_max_pool2d(x, size=5, alpha=1e-2, beta=0.75, k=1.0, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1),
                         dilation=(1, 1), ceil_mode=True)  # fmt: skip
    assert emulated_device == ["lrn_max_pool"]

    def definition(x):
        return F.max_pool2d(F.local_response_norm(x, 5, 1e-2, 0.75, 1.0), 3, 2, 1, 1, True)

    assert_parity(y, definition(x.double()), definition(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_stem_and_its_pool_are_one_kernel(emulated_device, dtype):
    """From optimize to the kernel; the pool behind the convolution of 24 channels stays apart."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 7, 2, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(24, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    ).eval().to(dtype)  # fmt: skip
    optimized, x = fastcnn.optimize(model), torch.randn(2, 3, 37, 30).to(dtype)
    with torch.no_grad():
        for _ in range(2):  # calls that are compared with the given model
            optimized(x)
        emulated_device.clear()
        y = optimized(x)
    assert emulated_device == ["conv2d_max_pool2d", "conv2d", "pool2d"]
    assert_parity(y, model.double()(x.double()).detach(), slack=1e-2 if dtype == torch.float16 else 1e-6)
    assert "up to 4 input channels, the input has 24" in str(fastcnn.explain(lambda x: v.conv2d_max_pool2d(
        x, torch.randn(8, 24, 1, 1), None, conv_stride=(1, 1), conv_padding=(0, 0, 0, 0), conv_dilation=(1, 1),
        groups=1, activation=None, kernel_size=(2, 2), stride=None, padding=(0, 0), dilation=(1, 1), ceil_mode=False,
    ), torch.randn(1, 24, 4, 4)))  # fmt: skip


def test_a_failed_launch_is_reported_and_served_by_pytorch(emulated_device, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("lrn: out of memory")

    monkeypatch.setattr(cuda_backend, "launch", fail)
    x = torch.randn(1, 4, 2, 2)
    with pytest.raises(RuntimeError, match="lrn: out of memory"):
        fastcnn.functional.local_response_norm(x, 5)
    operator = fastcnn.core.operator.OPERATORS["local_response_norm"]
    candidate = next(c for c in operator.candidates if c.backend == "cuda")
    problem = operator.infer((x, None), operator.normalise((x,), (5, 1e-4, 0.75, 1.0)))
    with use_backend("auto"):
        runner = candidate.prepare(problem)
    with pytest.warns(UserWarning, match="local_response_norm.cuda.lrn failed, PyTorch's operator is used instead"):
        y = runner(x, None)
    assert torch.equal(y, F.local_response_norm(x, 5))


def test_a_precision_without_a_verified_plan_is_reported(monkeypatch):
    monkeypatch.setattr(conv2d_cuda, "conv2d_plan", lambda *_: None)
    monkeypatch.setattr(conv2d_cuda.triton_backend, "tf32_allowed", lambda kind: False)
    x, w = torch.randn(1, 3, 5, 5), torch.randn(2, 3, 3, 3)
    operator = fastcnn.core.operator.OPERATORS["conv2d"]
    problem = operator.infer((x, w, None, None, None), operator.normalise((x, w, None, None), (1, 1, 1, 1, None)))
    with pytest.raises(RuntimeError, match=r"no plan for .* is verified without TF32"):
        conv2d_cuda.by_precision(None, problem, "conv")()


def test_a_failed_launch_of_a_pair_is_served_by_pytorch(emulated_device, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("conv2d_max_pool2d: out of memory")

    monkeypatch.setattr(cuda_backend, "launch", fail)
    pair = fastcnn.core.selector.SELECTORS["conv2d_max_pool2d"]
    tensors = torch.randn(1, 3, 9, 9), torch.randn(4, 3, 3, 3), None, None
    params = pair.normalise(tensors, ((2, 1, 1, 1, "relu"), (2, 1, 0, 1, False)))
    with use_backend("auto"):
        runner = pair.candidates[0].prepare(pair.infer((*tensors, None), params))
    with pytest.warns(UserWarning, match="conv2d_max_pool2d.cuda.conv2d_max_pool2d failed, PyTorch's operator"):
        y = runner(*tensors, None)
    assert torch.equal(y, F.max_pool2d(F.conv2d(*tensors[:2], None, 2, 1).relu(), 2, 1))


def test_a_demanded_backend_says_why_not():
    with use_backend("cuda"), pytest.raises(Unsupported, match="cuda lrn: the input is on cpu"):
        fastcnn.functional.local_response_norm(torch.randn(1, 4, 2, 2), 5)


def test_every_plan_can_be_tuned_and_the_tuned_one_is_taken(emulated_device, monkeypatch, tmp_path):
    shapes = (("input", (1, 96, 5, 4)), ("weight", (136, 96, 1, 1)), ("bias", (136,)))
    call = Call("conv2d", shapes, (("activation", "relu"),))
    layer = tune_gpu.layer_of(Case("op", "conv2d", "small conv2d", batch=2, dtype="float16", call=call))
    options = list(tune_gpu.cuda_options(layer, tf32=False))
    assert len(options) > 3
    for option in options:
        assert relative_error(option.prepare()(), layer.truth) < 1e-3, option.name
    struct = native_problem(layer.problem)
    assert conv2d_plan(struct, layer.problem, False).name == options[0].choice
    choices = {tuning_key(layer.problem, False): options[-1].choice}
    monkeypatch.setattr(tuning_file, "choices", lambda device, backend: choices if backend == "cuda" else {})
    assert conv2d_plan(struct, layer.problem, False).name == options[-1].choice
    choices[tuning_key(layer.problem, False)] = "sm70/1x1"  # of a version that had such a kernel
    assert conv2d_plan(struct, layer.problem, False).name == options[0].choice


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (("80",), (8, 9), True),
        (("80",), (8, 7), False),
        (("80", "87"), (8, 7), True),
        (("87",), (8, 9), False),
        (("86",), (8, 0), False),
        (("90a",), (9, 0), True),
        (("100",), (10, 3), True),
        (("100",), (10, 1), False),
        (("120-virtual",), (13, 0), True),
        (("120-virtual",), (10, 3), False),
        (("80", "80-virtual"), (8, 7), True),
    ],
)
def test_which_devices_run_what_was_compiled(monkeypatch, architectures, capability, runs):
    monkeypatch.setattr(cuda_backend, "built", lambda: True)
    kernels = SimpleNamespace(cuda=SimpleNamespace(architectures=architectures))
    monkeypatch.setattr(cuda_backend.native, "extension", kernels)
    assert cuda_backend._runs_on(capability) is runs
