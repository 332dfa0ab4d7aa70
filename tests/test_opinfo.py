"""PyTorch's own operator samples: values, gradients, second gradients and refusals agree with fastcnn.functional."""

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo

import fastcnn
from fastcnn import functional

# Importing PyTorch's samples forbids setting backend flags for the rest of the process, and other tests set them.
torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True

NAMES = ("conv2d", "local_response_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "linear")
OPS: dict[str, OpInfo] = {
    name: next(op for op in op_db if op.name == f"nn.functional.{name}" and not op.variant_test_name) for name in NAMES
}
DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64)


def dtype_name(dtype):
    return str(dtype).removeprefix("torch.")


def call(name, sample, backend="auto"):
    with fastcnn.use_backend(backend):
        return getattr(functional, name)(sample.input, *sample.args, **sample.kwargs)


def theirs(name, sample):
    return OPS[name](sample.input, *sample.args, **sample.kwargs)


def samples(name, dtype, requires_grad=False, every=1):
    """PyTorch's samples; max_pool2d has 1,440, so that some tests take every few."""
    found = list(OPS[name].sample_inputs("cpu", dtype, requires_grad=requires_grad))
    return found[:: every if len(found) > 100 else 1]


def assert_values_agree(name, chosen, backend):
    for sample in chosen:
        ours = call(name, sample, backend)
        # In float16 PyTorch's own local_response_norm is off by one unit in the last place; ours rounds once.
        tolerance = {"rtol": 2e-3, "atol": 1e-4} if sample.input.dtype is torch.float16 else {}
        torch.testing.assert_close(
            ours, theirs(name, sample), equal_nan=True, msg=f"{name} {sample.summary()}".__add__, **tolerance
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_values_agree(name, backend):
    with torch.no_grad():
        assert_values_agree(name, samples(name, torch.float32, every=1 if backend == "auto" else 11), backend)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
def test_values_agree_in_other_dtypes(name, dtype):
    if dtype in OPS[name].supported_dtypes("cpu"):
        assert_values_agree(name, samples(name, dtype, every=7), "auto")
        return
    for sample in samples(name, torch.float32, every=7):
        if sample.input.numel() == 0:
            continue
        low = sample.transform(lambda t: t.to(dtype) if isinstance(t, torch.Tensor) else t)
        if dtype is torch.float16:  # PyTorch has no local_response_norm in float16 on a CPU; we do
            wide = low.transform(lambda t: t.float() if isinstance(t, torch.Tensor) else t)
            torch.testing.assert_close(call(name, low), theirs(name, wide).half(), rtol=2e-3, atol=1e-4)
        else:
            with pytest.raises(TypeError, match=dtype_name(dtype)):
                call(name, low)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=dtype_name)
def test_gradients_agree(name, dtype):
    def gradients(function, tensors):
        output = function()
        output = output[0] if isinstance(output, tuple) else output
        seed = torch.arange(output.numel(), dtype=dtype).reshape(output.shape).sin()
        first = torch.autograd.grad(output, tensors, seed, create_graph=True)
        if output.numel() == 0:
            return first
        total = sum((g * g).sum() for g in first)
        return (*first, *torch.autograd.grad(total, tensors, allow_unused=True)) if total.requires_grad else first

    for sample in samples(name, dtype, requires_grad=True, every=11):
        tensors = [t for t in (sample.input, *sample.args, *sample.kwargs.values()) if isinstance(t, torch.Tensor)]
        tensors = [t for t in tensors if t.requires_grad]
        ours = gradients(lambda sample=sample: call(name, sample), tensors)
        expected = gradients(lambda sample=sample: theirs(name, sample), tensors)
        torch.testing.assert_close(ours, expected, msg=f"{name} {sample.summary()}".__add__)


@pytest.mark.parametrize("name", [name for name in NAMES if OPS[name].error_inputs_func is not None])
def test_error_samples_are_refused(name):
    refused = 0
    for error in OPS[name].error_inputs("cpu"):
        with pytest.raises((TypeError, ValueError)):
            call(name, error.sample_input)
        refused += 1
    assert refused > 0
