"""Choosing a kernel: demanded backends, reasons, the environment, threads, remembered choices, packed weights."""

import gc
import os
import subprocess
import sys
import threading

import pytest
import torch
import torch.nn.functional as F

import fastcnn
from fastcnn import functional, ops
from fastcnn.core import native, packing
from fastcnn.core.backend import BACKENDS, current_backend


@pytest.fixture
def conv():
    return torch.randn(2, 8, 9, 7), torch.randn(5, 8, 3, 3), torch.randn(5)


def taken(explanation):
    return [choice.taken.backend for choice in explanation.choices]


def test_native_kernels_are_taken_on_the_cpu(conv):
    assert native.unavailable is None, native.unavailable
    assert taken(fastcnn.explain(functional.conv2d, *conv)) == ["cpu"]


def test_unsupported_dtype_falls_to_the_reference(conv):
    explanation = fastcnn.explain(functional.conv2d, *(t.double() for t in conv))
    assert taken(explanation) == ["reference"]
    reasons = {c.backend: reason for c, reason in explanation.choices[0].reasons}
    assert "float64" in reasons["cpu"]


def test_a_demanded_backend_raises_with_each_reason(conv):
    with (
        fastcnn.use_backend("cpu"),
        pytest.raises(fastcnn.Unsupported, match=r"cpu direct: torch.float64 is not one of"),
    ):
        functional.conv2d(*(t.double() for t in conv))
    with fastcnn.use_backend("cuda"), pytest.raises(fastcnn.Unsupported, match="backend 'cuda' was demanded"):
        functional.conv2d(*conv)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_backend_computes_the_same(conv, backend):
    with fastcnn.use_backend(backend):
        torch.testing.assert_close(functional.conv2d(*conv), F.conv2d(*conv), rtol=1e-4, atol=1e-4)


def test_use_backend_as_a_block_and_as_a_setter():
    assert current_backend() == "auto"
    with fastcnn.use_backend("reference"):
        assert current_backend() == "reference"
        with fastcnn.use_backend("cpu"):
            assert current_backend() == "cpu"
        assert current_backend() == "reference"
    assert current_backend() == "auto"
    try:
        fastcnn.use_backend("reference")
        assert current_backend() == "reference"
        seen = []
        thread = threading.Thread(target=lambda: seen.append(current_backend()))
        thread.start()
        thread.join()
        assert seen == ["reference"]
    finally:
        fastcnn.use_backend("auto")


def test_a_block_is_local_to_its_thread():
    seen = []
    with fastcnn.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(current_backend()))
        thread.start()
        thread.join()
    assert seen == ["auto"]


@pytest.mark.parametrize("name", ["gpu", "", None, 3])
def test_an_unknown_backend_is_refused(name):
    with pytest.raises(ValueError, match=r"unknown backend .*; allowed: auto, cuda, triton, cpu, reference"):
        fastcnn.use_backend(name)
    assert current_backend() == "auto"


def test_the_environment_sets_the_backend():
    code = "import fastcnn; from fastcnn.core.backend import current_backend; print(current_backend())"

    def run(backend):
        return subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "FASTCNN_BACKEND": backend}, capture_output=True, text=True
        )

    assert run("reference").stdout.strip() == "reference"
    assert "FASTCNN_BACKEND: unknown backend 'fast'" in run("fast").stderr


def test_explain_shows_every_candidate(conv):
    explanation = fastcnn.explain(functional.conv2d, *conv)
    (choice,) = explanation.choices
    assert [c for c, _ in choice.reasons] == list(ops.conv2d.candidates)
    text = str(explanation)
    assert "2x8x9x7 -> 5, 3x3" in text
    assert "taken" in text
    assert all(candidate.name in text for candidate in ops.conv2d.candidates)
    network = torch.nn.Sequential(fastcnn.nn.Conv2d(3, 8, 3, activation="relu"), fastcnn.nn.MaxPool2d(2))
    names = [choice.operator for choice in fastcnn.explain(network, torch.randn(1, 3, 8, 8)).choices]
    assert names == ["conv2d", "max_pool2d"]
    with pytest.raises(TypeError, match="fn_or_module is int"):
        fastcnn.explain(3)


def test_each_operator_ends_with_the_reference():
    for operator in fastcnn.core.operator.OPERATORS.values():
        assert operator.candidates[-1].backend == "reference"
        assert {c.backend for c in operator.candidates} <= set(BACKENDS)


def test_a_changed_weight_is_packed_again(conv):
    input, weight, bias = conv
    functional.conv2d(input, weight, bias)
    weight.mul_(-2)
    torch.testing.assert_close(
        functional.conv2d(input, weight, bias), F.conv2d(input, weight, bias), rtol=1e-4, atol=1e-4
    )
    weight.data = torch.randn_like(weight)
    torch.testing.assert_close(
        functional.conv2d(input, weight, bias), F.conv2d(input, weight, bias), rtol=1e-4, atol=1e-4
    )


def test_packed_weights_die_with_the_weight():
    packing.clear_packed()
    weight = torch.randn(5, 8, 3, 3)
    functional.conv2d(torch.randn(2, 8, 9, 7), weight)
    functional.conv2d(torch.randn(1, 8, 5, 5), weight)  # another size shares the packed form
    assert len(packing._kept) == 1
    del weight
    gc.collect()
    assert len(packing._kept) == 0


def test_packed_weights_of_a_temporary_are_freed():
    packing.clear_packed()
    input = torch.randn(1, 4, 6, 6)
    for _ in range(5):
        functional.conv2d(input, torch.randn(4, 4, 3, 3))
    gc.collect()
    assert len(packing._kept) == 0


def test_an_inference_tensor_as_weight():
    with torch.inference_mode():
        input, weight = torch.randn(1, 4, 6, 6), torch.randn(4, 4, 3, 3)
        functional.conv2d(input, weight)
        weight.mul_(3)
        torch.testing.assert_close(functional.conv2d(input, weight), F.conv2d(input, weight), rtol=1e-4, atol=1e-4)


def test_remembered_choices_are_bounded(monkeypatch):
    monkeypatch.setattr(type(ops.rbf), "MAX_REMEMBERED", 4)
    for n in range(1, 12):
        functional.rbf(torch.randn(n, 3), torch.randn(2, 3))
    assert len(ops.rbf._runners) <= 4
