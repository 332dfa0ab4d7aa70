"""On a GPU: every kernel of both GPU backends, CUDA graphs, streams, and the copy engine at its edges."""

import pytest
import torch

import fastcnn.functional as f
from fastcnn.core.backend import use_backend
from fastcnn.workbench.verify.worker import Setting, correctness, kernel_name, kernels

pytestmark = pytest.mark.gpu

KERNELS = list(kernels(("cuda", "triton")))


@pytest.fixture(autouse=True)
def device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(params=["cuda", "triton"])
def backend(request, device):
    with use_backend(request.param), torch.inference_mode():
        yield request.param


@pytest.mark.parametrize(
    ("operator", "candidate", "dtype"), KERNELS, ids=[f"{kernel_name(o, c)}-{dtype}" for o, c, dtype in KERNELS]
)
def test_every_kernel(device, operator, candidate, dtype):
    *plans, done = [
        a for a in correctness(Setting(device), kernel_name(operator, candidate), dtype, []) if "begin" not in a
    ]
    if done["refused"]:
        pytest.skip(done["refused"])
    assert not [plan for plan in plans if plan["failed"]]


def _block(x, weight, bias):
    """Operators that need a workspace, shared memory and several launches, one after another."""
    y = f.conv2d(x, weight, bias, padding=1, activation="relu")
    y = f.max_pool2d(f.local_response_norm(y, 5), 3, 2)
    y = f.add_relu(f.concat([y, y])[:, :64], f.conv2d(y, weight, bias, padding=1))
    return f.linear(f.adaptive_avg_pool2d(y, 1).flatten(1), weight[:, :, 0, 0], bias)


def _tensors(device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 64, 14, 14), (64, 64, 3, 3), (64,))
    x, weight, bias = (torch.randn(shape, generator=generator) / 8 for shape in shapes)
    return [t.to(device, torch.float16) for t in (x.contiguous(memory_format=torch.channels_last), weight, bias)]


def test_graph_capture(device, backend):
    """A captured graph computes from what its input holds when it is replayed."""
    x, weight, bias = _tensors(device)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):  # chooses kernels, packs weights, compiles
            _block(x, weight, bias)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = _block(x, weight, bias)
    for seed in (1, 2):
        x.copy_(_tensors(device, seed)[0])
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, _block(x, weight, bias))


def test_streams(device, backend):
    """Calls on several streams at once, each with its workspace, give what they give one after another."""
    inputs = [_tensors(device, seed) for seed in range(4)]
    expected = [_block(*tensors) for tensors in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    results = [[] for _ in inputs]
    for _ in range(10):
        for stream, tensors, found in zip(streams, inputs, results, strict=True):
            with torch.cuda.stream(stream):
                found.append(_block(*tensors))
    torch.cuda.synchronize()
    for found, right in zip(results, expected, strict=True):
        for y in found:
            assert torch.equal(y, right)


def test_the_same_bits_every_time(device, backend):
    """A result that changes from call to call is a race."""
    tensors = _tensors(device)
    first = _block(*tensors)
    for _ in range(20):
        assert torch.equal(_block(*tensors), first)


@pytest.mark.parametrize("network", ["resnet18", "alexnet"])
def test_an_optimized_network(device, backend, network):
    """Run, captured and replayed: ResNet's stem, and AlexNet's normalisations, are one kernel each with their pool."""
    import fastcnn
    from fastcnn import models

    model = getattr(models, network)().eval().to(device, torch.float16)
    optimized = fastcnn.optimize(model)
    x = torch.randn(2, 3, 227, 227, device=device, dtype=torch.float16)
    ours = [optimized(x) for _ in range(3)]
    with use_backend("reference"):
        theirs, exact = model(x), model.double()(x.double())
    error, allowed = (((y.double() - exact).norm() / exact.norm()).item() for y in (ours[0], theirs))
    assert error <= 2 * allowed + torch.finfo(torch.float16).eps
    assert all(torch.equal(y, ours[0]) for y in ours)


def test_a_network(device, backend):
    from fastcnn import models

    model = models.resnet18().eval().to(device, torch.float16)
    x = torch.randn(2, 3, 64, 64, device=device, dtype=torch.float16)
    ours = model(x)
    with use_backend("reference"):
        theirs, exact = model(x), model.double()(x.double())
    error, allowed = (((y.double() - exact).norm() / exact.norm()).item() for y in (ours, theirs))
    assert error <= 2 * allowed + torch.finfo(torch.float16).eps
