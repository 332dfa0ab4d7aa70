"""Calls like one before go straight to their kernel: which do, which must not, and what they return."""

import gc
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastcnn
from fastcnn import functional, ops
from fastcnn.core import recall
from fastcnn.core.operator import OPERATORS

CL = torch.channels_last


def image(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype).contiguous(memory_format=CL)


def rows(*shape):
    return torch.randn(shape)


# operator, function, PyTorch's, arguments
CALLS = {
    "conv2d": (functional.conv2d, F.conv2d, (image(1, 5, 6, 7), rows(4, 5, 3, 3), rows(4))),
    "linear": (functional.linear, F.linear, (rows(3, 11), rows(5, 11), rows(5))),
    "max_pool2d": (functional.max_pool2d, F.max_pool2d, (image(1, 5, 6, 7), 2)),
    "avg_pool2d": (functional.avg_pool2d, F.avg_pool2d, (image(1, 5, 6, 7), (3, 2), 2)),
    "adaptive_avg_pool2d": (functional.adaptive_avg_pool2d, F.adaptive_avg_pool2d, (image(2, 5, 6, 7), 3)),
    "local_response_norm": (
        functional.local_response_norm,
        lambda x, size: F.local_response_norm(x.float(), size).to(x.dtype),
        (image(1, 5, 6, 7), 3),
    ),
    "concat": (lambda *t: functional.concat(t), lambda *t: torch.cat(t, 1), (image(1, 5, 6, 7), image(1, 2, 6, 7))),
    "add_relu": (functional.add_relu, lambda a, b: torch.relu(a + b), (image(1, 5, 6, 7), image(1, 5, 6, 7))),
    "rbf": (functional.rbf, lambda x, c: (x[:, None] - c).square().sum(-1), (rows(3, 11), rows(5, 11))),
}


@pytest.fixture(params=["table", "attributes"])
def way(request):
    """How tensors are read: through DLPack's table of functions, or by their attributes where torch has none."""
    recall.attach(by_attributes=request.param == "attributes")
    for operator in OPERATORS.values():
        operator.forget()
    yield request.param
    recall.attach()
    for operator in OPERATORS.values():
        operator.forget()


def unprepared(*arguments):
    raise AssertionError("a remembered call was chosen again")


@pytest.mark.parametrize("name", CALLS)
def test_a_call_like_one_before_is_not_checked_again(name, way, monkeypatch):
    ours, theirs, arguments = CALLS[name]
    first = ours(*arguments)
    monkeypatch.setattr(OPERATORS[name], "infer", unprepared)
    monkeypatch.setattr(OPERATORS[name], "normalise", unprepared)
    monkeypatch.setattr(OPERATORS[name], "run", unprepared)
    again = ours(*arguments)
    torch.testing.assert_close(first, theirs(*arguments), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    assert again.stride() == first.stride()
    if again.dim() == 4:
        assert again.is_contiguous(memory_format=CL)
    with pytest.raises(AssertionError, match="chosen again"), fastcnn.use_backend("reference"):
        ours(*arguments)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(AssertionError, match="chosen again"):
            ours(*arguments)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("change", ["shape", "stride", "dtype"])
def test_another_shape_layout_or_dtype_is_another_call(name, change, way):
    ours, theirs, arguments = CALLS[name]
    ours(*arguments)

    def changed(t):
        if not isinstance(t, torch.Tensor):
            return t
        if change == "dtype":
            return t.to(torch.bfloat16)
        if change == "stride":
            return torch.stack([t, torch.full_like(t, float("nan"))], -1)[..., 0]
        return torch.cat([t, t]) if t is arguments[0] or name in ("concat", "add_relu") else t

    arguments = tuple(map(changed, arguments))
    tolerance = 5e-2 if change == "dtype" else 1e-4
    for _ in range(2):
        torch.testing.assert_close(ours(*arguments), theirs(*arguments), rtol=tolerance, atol=tolerance)


def operators_seen(function, arguments):
    """By a dispatch mode."""
    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Recorder():
        function(*arguments)
    return seen


@pytest.mark.parametrize("name", CALLS)
def test_modes_tracers_transforms_and_gradients_miss_no_remembered_call(name, way):
    ours, _, arguments = CALLS[name]
    tensors = [t for t in arguments if isinstance(t, torch.Tensor)]
    rest = arguments[len(tensors) :]

    def function(*given):
        return ours(*given, *rest)

    expected = function(*tensors)
    overload = getattr(torch.ops.fastcnn, name).default
    assert overload in operators_seen(function, tensors)
    assert f"fastcnn::{name}" in str(torch.jit.trace(function, tuple(tensors), check_trace=False).graph)
    assert any(node.target is overload for node in make_fx(function)(*tensors).graph.nodes)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function(*tensors)
    assert f"fastcnn::{name}" in {event.key for event in profile.key_averages()}
    assert len(fastcnn.explain(function, *tensors).choices) == 1
    mapped = torch.func.vmap(function)(*(torch.stack([t, t]) for t in tensors))
    torch.testing.assert_close(mapped[1], expected, rtol=1e-4, atol=1e-5)
    leaf = tensors[0].clone().requires_grad_()
    assert function(leaf, *tensors[1:]).requires_grad
    with torch.no_grad():
        assert not function(leaf, *tensors[1:]).requires_grad
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors[0], torch.ones_like(tensors[0]))
        assert forward_ad.unpack_dual(function(dual, *tensors[1:])).tangent is not None
    torch.testing.assert_close(function(*tensors), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CALLS)
def test_tensors_that_are_not_what_their_memory_says(name, way):
    """Lazily negated ones, zeros without memory, subclasses that wrap others: a kernel would read what is not there."""
    ours, theirs, arguments = CALLS[name]
    ours(*arguments)
    negated = tuple(torch._neg_view(t) if isinstance(t, torch.Tensor) else t for t in arguments)
    assert negated[0].is_neg()
    torch.testing.assert_close(ours(*negated), theirs(*negated), rtol=1e-4, atol=1e-5)
    if name in ("add_relu", "concat", "max_pool2d", "avg_pool2d", "local_response_norm"):
        zeros = tuple(torch._efficientzerotensor(t.shape) if isinstance(t, torch.Tensor) else t for t in arguments)
        assert torch.equal(ours(*zeros), torch.zeros_like(theirs(*arguments)))
    wrapped = tuple(TwoTensor(t, t + 1) if isinstance(t, torch.Tensor) else t for t in arguments)
    result = ours(*wrapped)
    assert type(result) is TwoTensor
    torch.testing.assert_close(result.a, theirs(*arguments), rtol=1e-4, atol=1e-5)


def test_lists_are_taken_as_tuples(way):
    x = image(1, 5, 6, 7)
    for _ in range(2):
        assert torch.equal(functional.max_pool2d(x, [2, 3], [], [0, 1]), F.max_pool2d(x, [2, 3], [], [0, 1]))
        torch.testing.assert_close(functional.adaptive_avg_pool2d(x, [3, None]), F.adaptive_avg_pool2d(x, [3, None]))
        with pytest.raises(TypeError, match="max_pool2d: kernel_size is"):
            functional.max_pool2d(x, {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.bool], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_an_output_is_an_ordinary_tensor(dtype, batch):
    a, b = image(batch, 3, 5, 4, dtype=dtype), image(batch, 6, 5, 4, dtype=dtype)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for _ in range(2):
                y = functional.concat([a, b])
            assert y.is_inference() == (mode is torch.inference_mode)
            y += y
        assert torch.equal(y, torch.cat([a, b], 1) + torch.cat([a, b], 1))
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=CL)
        assert y.storage_offset() == 0
        assert y.data_ptr() % 64 == 0 or not y.numel()
        assert y.untyped_storage().nbytes() == y.numel() * dtype.itemsize
    assert torch.equal(y.clone(), y)


def test_an_output_outlives_its_call_and_is_freed():
    x = torch.randn(1, 16, 256, 256).contiguous(memory_format=CL)
    expected = F.max_pool2d(x, 2)
    outputs = [functional.max_pool2d(x, 2) for _ in range(4)]
    ops.max_pool2d.forget()
    gc.collect()
    assert all(torch.equal(y, expected) for y in outputs)
    with open("/proc/self/statm", encoding="utf-8") as file:
        before = int(file.read().split()[1])
    for _ in range(400):
        functional.max_pool2d(x, 2)
    with open("/proc/self/statm", encoding="utf-8") as file:
        assert (int(file.read().split()[1]) - before) * 4096 < 40 * outputs[0].nbytes


def test_a_call_keeps_no_references():
    x, y, params = image(1, 5, 6, 7), image(1, 5, 3, 3), (2, None, 0, 1, False)
    ops.max_pool2d.forget()
    ops.max_pool2d((x,), params, y)
    (runner,) = ops.max_pool2d._runners.values()
    counted = (x, y, params, runner, "auto", None)
    before = [sys.getrefcount(thing) for thing in counted]
    for _ in range(100):
        ops.max_pool2d((x,), params, y)
        ops.max_pool2d((x,), params)
    assert all(abs(sys.getrefcount(thing) - count) < 50 for thing, count in zip(counted, before, strict=True))


def test_a_bound_kernel_refuses_what_it_cannot_take():
    from fastcnn import _C

    kernel = _C.cpu.rbf(_C.RbfProblem(), 1)
    for wrong in [(), (1,), (1, 2, 3, 4)]:
        with pytest.raises(TypeError, match=f"2 tensors and an output are needed, {len(wrong)} were given"):
            kernel(*wrong)
    with pytest.raises(AttributeError, match="data_ptr"):
        kernel("a", "b", "c")
    with pytest.raises(TypeError):
        _C.cpu.rbf(_C.RbfProblem(), 1, ((1, 2), [1, 2]))


def test_without_the_extension_every_call_takes_the_long_way():
    code = (
        "import sys; sys.modules['fastcnn._C'] = None\n"
        "import torch, fastcnn\n"
        "from fastcnn.core import recall\n"
        "x = torch.randn(2, 3, 5, 4)\n"
        "assert recall.key((x,), (), None, None) is None and not recall.is_inference((x,))\n"
        "for _ in range(2):\n"
        "    assert torch.equal(fastcnn.functional.add_relu(x, x), torch.relu(x + x))\n"
        "print(fastcnn.explain(fastcnn.functional.add_relu, x, x))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "could not be loaded" in done.stdout
