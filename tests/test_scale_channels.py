"""scale_channels: what its own problems in tests/test_verify.py and test_torch_integration.py do not reach."""

import re

import pytest
import torch

import fastcnn
from fastcnn import functional
from fastcnn.workbench.report.plain import scale_channels as plain

CL = torch.channels_last


def image(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype).contiguous(memory_format=CL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 70, 4, 1), (1, 16, 9, 9), (2, 33, 3, 2)], ids=str)
def test_as_accurate_as_pytorch(shape, residual, dtype):
    x, s = image(*shape, dtype=dtype), torch.randn(shape[:2]).to(dtype)
    r = image(*shape, dtype=dtype) if residual else None
    exact = plain(x.double(), s.double(), None if r is None else r.double(), activation="relu")
    with fastcnn.use_backend("cpu"):
        y = functional.scale_channels(x, s, r, activation="relu")
    theirs = plain(x, s, r, activation="relu")
    allowed = 2 * (theirs.double() - exact).norm() + torch.finfo(dtype).eps / 4 * exact.norm()
    assert (y.double() - exact).norm() <= allowed


@pytest.mark.parametrize("layout", ["contiguous", "slice", "transposed scale", "flipped"])
def test_layouts(layout):
    x, s = torch.randn(2, 6, 5, 4), torch.rand(2, 6, 1, 1)
    if layout == "slice":
        x = image(2, 12, 5, 4)[:, 3:9]
    elif layout == "transposed scale":
        s = torch.rand(6, 2).t()
    elif layout == "flipped":
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    y = functional.scale_channels(x, s, x)
    torch.testing.assert_close(y, plain(x, s, x))
    assert y.is_contiguous(memory_format=CL)


def test_out_is_written_in_place_and_no_further():
    wide = torch.full((2, 5, 4, 12), 7.0).permute(0, 3, 1, 2)
    x, s = image(2, 6, 5, 4), torch.rand(2, 6)
    out = wide[:, 3:9]
    with torch.no_grad():
        assert functional.scale_channels(x, s, out=out) is out
    torch.testing.assert_close(out, plain(x, s))
    assert (wide[:, :3] == 7).all()
    assert (wide[:, 9:] == 7).all()


def test_in_place_of_an_input_is_right():
    x, s, r = image(2, 6, 5, 4), torch.rand(2, 6), image(2, 6, 5, 4)
    expected = plain(x, s, r)
    with torch.no_grad():
        functional.scale_channels(x, s, r, out=r)
    torch.testing.assert_close(r, expected)


def test_nan_and_infinity():
    x, s = torch.ones(1, 4, 2, 2), torch.tensor([[float("nan"), float("inf"), 0.0, -1.0]])
    x[0, 2, 0, 0] = float("inf")
    y = functional.scale_channels(x, s, activation="relu")
    assert torch.equal(y.isnan(), plain(x, s).isnan())
    assert y[0, 1].isinf().all()
    assert (y[0, 3] == 0).all()


@pytest.mark.parametrize("activation", [None, "sigmoid", "tanh", "silu"])
@pytest.mark.parametrize("residual", [False, True])
def test_gradients(activation, residual):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    s = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    r = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) if residual else None

    def f(x, s, *r):
        return functional.scale_channels(x, s, *r, activation=activation)

    inputs = (x, s, r) if residual else (x, s)
    assert torch.autograd.gradcheck(f, inputs)
    if activation != "silu":  # PyTorch has no second derivative of its gradient
        assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2, 3, 4, 5), (2, 4)), "scale has shape (2, 4), input has (2, 3, 4, 5); (2, 3) or (2, 3, 1, 1) is needed"),
        (((2, 3, 4, 5), (3,)), "scale has shape (3,)"),
        (((3, 4, 5), (3,)), "input is 3-D"),
        (((2, 3, 4, 5), (2, 3), (2, 3, 4, 1)), "residual has shape (2, 3, 4, 1), input has (2, 3, 4, 5)"),
    ],
)
def test_wrong_shapes_are_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(f"scale_channels: {message}")):
        functional.scale_channels(*map(torch.zeros, arguments))


def test_wrong_types_are_named():
    x, s = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2)
    with pytest.raises(TypeError, match=r"scale_channels: scale is 2\.0"):
        functional.scale_channels(x, 2.0)
    with pytest.raises((TypeError, ValueError), match=r"scale_channels: scale .*float64"):
        functional.scale_channels(x, s.double())
    with pytest.raises(ValueError, match="activation"):
        functional.scale_channels(x, s, activation="swosh")
