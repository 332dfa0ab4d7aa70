"""Pairs of operators that one kernel may compute: where a GPU's program has them, and what serves without a kernel."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastcnn
from fastcnn import ops
from fastcnn.core.backend import use_backend
from fastcnn.core.candidate import Candidate
from fastcnn.core.selector import SELECTORS
from fastcnn.optimize import vocabulary as v


class Stem(nn.Module):
    """AlexNet's first two blocks in small: a stem with its pool, then normalisation with its pool."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 5, 2, 2), nn.BatchNorm2d(16)
        self.conv, self.lrn = nn.Conv2d(16, 8, 3, padding=1), nn.LocalResponseNorm(5, 0.1, 0.75, 2.0)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.norm(self.stem(x))), 3, 2, 1, ceil_mode=True)
        return F.max_pool2d(self.lrn(self.conv(x)), 2)


@pytest.fixture
def x():
    return torch.randn(2, 3, 21, 19).contiguous(memory_format=torch.channels_last)


def operators(optimized, *inputs):
    return [row.operator for row in optimized.__fastcnn_explain__(*inputs).rows]


def test_a_program_for_a_gpu_has_the_pairs_a_plan_has_not(x):
    model = Stem().eval()
    optimized = fastcnn.optimize(model)
    assert operators(optimized, x) == ["conv2d", "max_pool2d", "conv2d", "lrn_max_pool2d"]
    with use_backend("reference"):  # no plan, as on a GPU
        assert operators(optimized, x) == ["conv2d_max_pool2d", "conv2d", "lrn_max_pool2d"]
        report = optimized.__fastcnn_explain__(x)
        torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
    assert report.rows[0].computes == ("stem", "norm", "relu", "max_pool2d")
    assert report.flops == optimized.__fastcnn_explain__(x).flops > 0, "the stem counts"
    assert operators(optimized, x)[0] == "conv2d", "the network itself was changed"
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)


def test_other_readers_and_residuals_keep_a_pair_apart(x):
    class Two(nn.Module):
        def __init__(self, residual):
            super().__init__()
            self.conv, self.residual = nn.Conv2d(3, 3, 3, padding=1), residual

        def forward(self, x):
            y = self.conv(x)
            return F.max_pool2d(y + x, 2) if self.residual else (F.max_pool2d(y, 2), y)

    with use_backend("reference"):
        for residual in (True, False):
            assert operators(fastcnn.optimize(Two(residual)), x) == ["conv2d", "max_pool2d"]


@pytest.fixture
def taken(monkeypatch):
    """Gives each pair a kernel that counts its calls, and takes inputs of 3 or 8 channels."""
    calls = []

    def prepare(name):
        def prepare(problem):
            def run(*tensors):
                calls.append(name)
                return SELECTORS[name].definition(*tensors[:-1], *problem.params)

            return run

        return prepare

    def supports(problem):
        return None if problem.first.C in (3, 8) else "C is something else"

    for name in ("conv2d_max_pool2d", "lrn_max_pool2d"):
        kernel = Candidate("reference", "counted", supports, prepare(name), note=lambda problem: "counted")
        monkeypatch.setattr(SELECTORS[name], "candidates", (kernel,))
        monkeypatch.setattr(SELECTORS[name], "_runners", {})
    with use_backend("reference"):
        yield calls


def test_a_kernel_is_called_where_it_takes_the_problem(taken, x):
    model = Stem().eval()
    optimized = fastcnn.optimize(model)
    for _ in range(2):
        torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
    assert taken == ["conv2d_max_pool2d", "lrn_max_pool2d"] * 2
    explanation = fastcnn.explain(lambda x: v.lrn_max_pool2d(
        x, size=5, alpha=1e-4, beta=0.75, k=1.0, kernel_size=(2, 2), stride=None, padding=(0, 0), dilation=(1, 1),
        ceil_mode=False), x)  # fmt: skip
    assert [choice.operator for choice in explanation.choices] == ["lrn_max_pool2d"]
    assert "2x3x21x19, size 5" in str(explanation)
    assert "2x3x21x19, max, kernel_size (2, 2)" in str(explanation)


def stem(x, weight, bias=None):
    return v.conv2d_max_pool2d(
        x, weight, bias, conv_stride=(2, 1), conv_padding=(1, 0, 2, 1), conv_dilation=(1, 1), groups=1,
        activation="tanh", kernel_size=(3, 2), stride=(2, 2), padding=(1, 0), dilation=(1, 1), ceil_mode=True,
    )  # fmt: skip


def stem_definition(x, weight, bias=None):
    y = torch.tanh(F.conv2d(F.pad(x, (2, 1, 1, 0)), weight, bias, (2, 1)))
    return F.max_pool2d(y, (3, 2), 2, (1, 0), ceil_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_kernel_refuses_is_two_operators(taken, dtype):
    x, weight, bias = torch.randn(2, 5, 9, 8, dtype=dtype), torch.randn(7, 5, 3, 3, dtype=dtype), None
    torch.testing.assert_close(stem(x, weight, bias), stem_definition(x, weight, bias), rtol=1e-4, atol=1e-5)
    assert not taken


def test_asymmetric_padding_reaches_the_kernel(taken, x):
    weight, bias = torch.randn(7, 3, 3, 3), torch.randn(7)
    torch.testing.assert_close(stem(x, weight, bias), stem_definition(x, weight, bias), rtol=1e-4, atol=1e-5)
    assert taken == ["conv2d_max_pool2d"]


def test_gradients_tracers_and_images_without_batch_take_two_operators(taken, x):
    weight = torch.randn(7, 3, 3, 3)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.enable_grad():
        stem(ours, weight).square().sum().backward()
        stem_definition(theirs, weight).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(stem(x[0], weight), stem_definition(x[:1], weight)[0])
    assert stem(x.to("meta"), weight.to("meta")).shape == stem_definition(x, weight).shape
    mapped = torch.stack([stem_definition(image[None], weight) for image in x])
    torch.testing.assert_close(torch.func.vmap(stem, (0, None))(x[:, None], weight), mapped, rtol=1e-4, atol=1e-4)
    assert not taken


def test_a_profiler_changes_no_choice(taken, x):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        stem(x, torch.randn(7, 3, 3, 3))
    assert taken == ["conv2d_max_pool2d"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w: (x, w[:, :2]), "weight has 2 input channels, input has 3"),
        (lambda x, w: (x, w.half()), "weight"),
        (lambda x, w: (x[:, :, :1, :1], w), "the kernel spans"),
    ],
)
def test_errors_are_those_of_the_two_operators(taken, x, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        stem(*change(x, torch.randn(7, 3, 3, 3)))


def test_the_settings_a_choice_depends_on_are_remembered(taken, x, monkeypatch):
    weight = torch.randn(7, 3, 3, 3)
    stem(x, weight)
    refuse = dataclasses.replace(ops.conv2d_max_pool2d.candidates[0], supports=lambda problem: "no")
    monkeypatch.setattr(ops.conv2d_max_pool2d, "candidates", (refuse,))
    stem(x, weight)
    assert len(taken) == 2
    monkeypatch.setattr(ops.conv2d_max_pool2d, "setting", lambda: "another precision")
    stem(x, weight)
    assert len(taken) == 2
