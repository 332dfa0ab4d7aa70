"""The table of activations: Python's rows against C++'s, each definition against its formula, gradients, names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fastcnn
from fastcnn import functional
from fastcnn.core import activations
from fastcnn.core.activations import TABLE

ROOT = Path(__file__).parents[1]
ROWS = list(TABLE.values())
each = pytest.mark.parametrize("row", ROWS, ids=list(TABLE))


def test_python_and_cpp_have_the_same_rows():
    text = (ROOT / "csrc" / "base" / "activation_list.h").read_text()
    rows = re.findall(r"ROW\((\w+), (\d+), (true|false),", text)
    assert [name for name, _, _ in rows] == ["none", *TABLE]
    assert [int(number) for _, number, _ in rows] == list(range(len(rows)))
    assert {name: kept == "true" for name, _, kept in rows[1:]} == {row.name: row.increasing for row in ROWS}


def test_the_extension_has_the_rows():
    C = pytest.importorskip("fastcnn._C")
    assert list(C.Activation.__members__) == ["none", *TABLE]
    assert list(C.Elementwise.__members__) == ["none", *TABLE, "add", "scale_channels"]


def test_the_documentation_has_the_rows():
    text = (ROOT / "docs" / "layers.md").read_text()
    assert re.findall(r"^\| `\"(\w+)\"` \| (.+) \|$", text, re.MULTILINE) == [(r.name, f"`{r.formula}`") for r in ROWS]


@each
def test_the_gradient_is_autograds(row):
    x = (3 * torch.randn(300, dtype=torch.float64)).requires_grad_()
    grad = torch.randn_like(x)
    y = row.apply(x)
    (expected,) = torch.autograd.grad(y, x, grad)
    kept = y if row.needs == "output" else x
    torch.testing.assert_close(row.gradient(grad, kept.detach()), expected)


@each
def test_increasing_is_what_it_does(row):
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    assert row.increasing == bool((row.apply(x).diff() >= 0).all())


@each
def test_a_maximum_is_taken_first_only_where_order_is_kept(row):
    """A convolution, an activation and a max-pool that `optimize` might make one kernel of."""
    layers = torch.nn.Sequential(fastcnn.nn.Conv2d(16, 16, 3, padding=1, activation=row.name), torch.nn.MaxPool2d(2))
    x = torch.randn(1, 16, 24, 24)
    with torch.no_grad():
        # Large weights: where the function falls, it falls far.
        layers[0].weight.mul_(8)
        convolved = F.conv2d(x, layers[0].weight, layers[0].bias, padding=1)
        torch.testing.assert_close(
            fastcnn.optimize(layers.eval())(x), F.max_pool2d(row.apply(convolved), 2), atol=1e-4, rtol=1e-4
        )


@each
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_operators_apply_it(row, backend):
    x, w, b = torch.randn(2, 5, 9, 7), torch.randn(11, 5, 3, 3) / 3, torch.randn(11)
    residual = torch.randn(2, 11, 9, 7)
    with torch.no_grad(), fastcnn.use_backend(backend):
        y = functional.conv2d(x, w, b, padding=1, activation=row.name, residual=residual)
        torch.testing.assert_close(y, row.apply(F.conv2d(x, w, b, padding=1) + residual))
        rows, matrix, shift = x[:, :, 0, 0], w.flatten(1)[:, :5], b
        y = functional.linear(rows, matrix, shift, activation=row.name)
        torch.testing.assert_close(y, row.apply(F.linear(rows, matrix, shift)))
        ones, zeros = torch.ones(5), torch.zeros(5)
        torch.testing.assert_close(functional.subsample2d(x, ones, zeros, 1, activation=row.name), row.apply(x))


@each
def test_operators_have_its_gradient(row):
    x, w, b = (torch.randn(*s, dtype=torch.float64) for s in ((1, 2, 4, 5), (3, 2, 3, 2), (3,)))
    r = torch.randn(1, 3, 2, 4, dtype=torch.float64)
    tensors = [t.requires_grad_() for t in (x, w, b, r)]

    def call(x, w, b, r):
        return functional.conv2d(x, w, b, activation=row.name, residual=r)

    torch.autograd.gradcheck(call, tensors)
    m, v = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((3, 2), (3,)))
    rows = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *t: functional.linear(*t, activation=row.name), (rows, m, v))
    c, s = torch.randn(2, 2, dtype=torch.float64).unbind()
    c, s = c.requires_grad_(), s.requires_grad_()
    torch.autograd.gradcheck(lambda *t: functional.subsample2d(*t, 2, activation=row.name), (x, c, s))


@each
def test_optimize_recognises_it(row):
    for op, needed in row.aten.items():
        assert activations.recognised(op, needed) == row.name


@pytest.mark.parametrize(
    ("op", "arguments"),
    [("hardtanh", {}), ("leaky_relu", {"negative_slope": 0.1}), ("elu", {"alpha": 2}), ("softplus", {}), ("add", {})],
)
def test_what_it_is_not(op, arguments):
    assert activations.recognised(op, arguments) is None


def test_defaults_count():
    assert activations.recognised("gelu", {}) == "gelu"
    assert activations.recognised("gelu", {"approximate": "tanh"}) == "gelu_tanh"
    assert activations.recognised("leaky_relu", {}) == "leaky_relu"


@pytest.mark.parametrize("name", ["swish", "RELU", "none", "", 3, ["relu"]])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(name):
    x, w = torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 1, 1)
    for call in (
        lambda: functional.conv2d(x, w, activation=name),
        lambda: functional.linear(x, torch.zeros(2, 4), activation=name),
        lambda: functional.subsample2d(x, torch.ones(3), torch.zeros(3), activation=name),
        lambda: fastcnn.nn.Conv2d(3, 4, 3, activation=name),
        lambda: fastcnn.nn.Linear(3, 4, activation=name),
    ):
        with pytest.raises(ValueError, match=r"unknown activation .*; allowed: None, 'relu', 'sigmoid'") as error:
            call()
        assert all(repr(known) in str(error.value) for known in TABLE)
