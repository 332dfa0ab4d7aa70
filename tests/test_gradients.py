"""Gradients in eager mode, as training takes them: by native kernels on the CPU, judged against float64.

PyTorch's own samples, second derivatives, torch.compile and the rest are in test_opinfo.py and
test_torch_integration.py.
"""

import copy

import pytest
import torch
import torch.nn.functional as TF
from test_functional import CONVS, LAYOUTS, assert_as_accurate, conv_arguments, laid_out
from torch import nn

import fastcnn
from fastcnn import _C, functional
from fastcnn.ops import batch_norm

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=_C.cpu.isas())
def isa(request):
    before = _C.cpu.isa()
    _C.cpu.set_isa(request.param)
    yield request.param
    _C.cpu.set_isa(before)


@pytest.fixture
def without_winograd():
    fastcnn.set_winograd_tolerance(0)
    yield
    fastcnn.set_winograd_tolerance(1e-5)


def gradients(function, tensors, grad, dtype=None):
    """Of function(*tensors), with respect to each tensor."""
    leaves = [t if dtype is None else t.to(dtype) for t in tensors]
    leaves = [t.detach().requires_grad_() for t in leaves]
    output = function(*leaves)
    return torch.autograd.grad(output, leaves, grad.to(output.dtype))


def assert_gradients_agree(ours, theirs, tensors, make_grad):
    """At most twice PyTorch's error; make_grad makes the output's gradient in one layout or another."""
    grad = make_grad(theirs(*tensors))
    found = gradients(ours, tensors, grad)
    pytorch, exact = gradients(theirs, tensors, grad), gradients(theirs, tensors, grad, torch.float64)
    for mine, torchs, true, tensor in zip(found, pytorch, exact, tensors, strict=True):
        assert mine.shape == tensor.shape
        assert_as_accurate(mine, torchs, true)


def random_grad(layout="channels_last"):
    torch.manual_seed(1)
    return lambda output: laid_out(torch.randn_like(output), layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", CONVS)
def test_conv2d(shape, dtype, isa, without_winograd):
    torch.manual_seed(0)
    input, weight, bias, kwargs = conv_arguments(**CONVS[shape], dtype=dtype)
    ours = lambda x, w, b: functional.conv2d(x, w, b, **kwargs)  # noqa: E731
    theirs = lambda x, w, b: TF.conv2d(x, w, b, **kwargs)  # noqa: E731
    assert_gradients_agree(ours, theirs, [input, weight, bias], random_grad())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels_last_weight", [False, True])
def test_conv2d_in_any_layout(layout, channels_last_weight, without_winograd):
    torch.manual_seed(0)
    input, weight, bias, kwargs = conv_arguments(**CONVS["wide 3x3"], N=3)
    if channels_last_weight:
        weight = weight.contiguous(memory_format=torch.channels_last)
    ours = lambda x, w, b: functional.conv2d(x, w, b, **kwargs)  # noqa: E731
    theirs = lambda x, w, b: TF.conv2d(x, w, b, **kwargs)  # noqa: E731
    assert_gradients_agree(ours, theirs, [laid_out(input, layout), weight, bias], random_grad(layout))


@pytest.mark.parametrize(
    "arguments",
    [
        dict(C=3, K=64, kernel=(7, 7), stride=2, padding=3, size=(31, 30)),
        dict(C=70, K=130, kernel=(1, 1), size=(7, 9)),
        dict(C=16, K=120, kernel=(5, 5), size=(5, 5)),
        dict(C=3, K=8, kernel=(3, 3), size=(9, 300)),
        dict(C=64, K=96, kernel=(1, 3), padding=(0, 4), size=(8, 8)),
        dict(C=96, K=64, kernel=(3, 3), padding=1, dilation=2, size=(11, 12)),
        dict(C=40, K=40, kernel=(3, 3), padding=1, groups=2, size=(14, 15)),
    ],
    ids=["stem", "1x1", "whole image", "long lines", "padded beyond reach", "dilated", "groups"],
)
def test_conv2d_of_odd_shape(arguments, isa, without_winograd):
    torch.manual_seed(0)
    input, weight, bias, kwargs = conv_arguments(**arguments)
    ours = lambda x, w, b: functional.conv2d(x, w, b, **kwargs)  # noqa: E731
    theirs = lambda x, w, b: TF.conv2d(x, w, b, **kwargs)  # noqa: E731
    assert_gradients_agree(ours, theirs, [input, weight, bias], random_grad())


@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_conv2d_by_winograd_is_within_its_bound(kernel, groups, isa):
    torch.manual_seed(0)
    input, weight, bias, kwargs = conv_arguments(
        C=128, K=192, kernel=(kernel, kernel), padding=kernel // 2, groups=groups, size=(21, 18)
    )
    ours = lambda x, w, b: functional.conv2d(x, w, b, **kwargs)  # noqa: E731
    theirs = lambda x, w, b: TF.conv2d(x, w, b, **kwargs)  # noqa: E731
    grad = torch.randn(2, 192, 21, 18)
    exact = gradients(theirs, [input, weight, bias], grad, torch.float64)
    by_winograd = gradients(ours, [input, weight, bias], grad)
    for mine, true in zip(by_winograd, exact, strict=True):
        assert (mine.double() - true).norm() <= 1e-5 * true.norm()
    fastcnn.set_winograd_tolerance(0)
    try:
        direct = gradients(ours, [input, weight, bias], grad)
    finally:
        fastcnn.set_winograd_tolerance(1e-5)
    for i in range(2):
        assert not torch.equal(by_winograd[i], direct[i])  # the tolerance is heeded


@pytest.mark.parametrize("activation", [None, "relu", "sigmoid", "tanh", "scaled_tanh"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_epilogue(activation, dtype, isa, without_winograd):
    from fastcnn.core import activations

    torch.manual_seed(0)
    input, weight, bias, _ = conv_arguments(C=6, K=19, kernel=(3, 3), dtype=dtype)
    residual = torch.randn(2, 19, 11, 9, dtype=dtype)

    def ours(x, w, b, r):
        return functional.conv2d(x, w, b, activation=activation, residual=r)

    def theirs(x, w, b, r):
        return activations.apply(activation, TF.conv2d(x, w, b) + r)

    # In 16 bits the two round the output differently, and so its activation's slope: one comparison of many.
    grad = torch.randn(2, 19, 11, 9, dtype=dtype)
    found = gradients(ours, [input, weight, bias, residual], grad)
    exact = gradients(theirs, [input, weight, bias, residual], grad, torch.float64)
    limit = {torch.float32: 2e-6, torch.float16: 2e-2, torch.bfloat16: 8e-2}[dtype]
    for mine, true in zip(found, exact, strict=True):
        assert mine.dtype is dtype
        assert (mine.double() - true).norm() <= limit * true.norm()


def test_gradients_of_an_empty_batch():
    x = torch.randn(0, 4, 8, 8, requires_grad=True)
    conv = fastcnn.nn.Conv2d(4, 6, 3, activation="relu")
    functional.max_pool2d(functional.local_response_norm(conv(x), 5), 2).sum().backward()
    assert x.grad.shape == x.shape
    assert not conv.weight.grad.any()
    assert not conv.bias.grad.any()


POOLS = {
    "max 3/2": (functional.max_pool2d, TF.max_pool2d, dict(kernel_size=3, stride=2, padding=1)),
    "max 2": (functional.max_pool2d, TF.max_pool2d, dict(kernel_size=2)),
    "max 3/1": (functional.max_pool2d, TF.max_pool2d, dict(kernel_size=3, stride=1, padding=1)),
    "max overhanging": (functional.max_pool2d, TF.max_pool2d, dict(kernel_size=3, stride=2, ceil_mode=True)),
    "max dilated": (functional.max_pool2d, TF.max_pool2d, dict(kernel_size=(3, 2), stride=(2, 1), dilation=(2, 3))),
    "max 17x17": (functional.max_pool2d, TF.max_pool2d, dict(kernel_size=17, stride=5, padding=8)),
    "avg 3/2": (functional.avg_pool2d, TF.avg_pool2d, dict(kernel_size=3, stride=2, padding=1)),
    "avg of the image": (
        functional.avg_pool2d, TF.avg_pool2d, dict(kernel_size=3, padding=1, count_include_pad=False, ceil_mode=True),
    ),
    "avg divisor": (functional.avg_pool2d, TF.avg_pool2d, dict(kernel_size=(2, 3), divisor_override=-3)),
    "adaptive 1": (functional.adaptive_avg_pool2d, TF.adaptive_avg_pool2d, dict(output_size=1)),
    "adaptive 3x5": (functional.adaptive_avg_pool2d, TF.adaptive_avg_pool2d, dict(output_size=(3, 5))),
    "adaptive larger": (functional.adaptive_avg_pool2d, TF.adaptive_avg_pool2d, dict(output_size=(19, 30))),
}  # fmt: skip


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", [5, 16, 70])
def test_pools(pool, dtype, C, isa):
    torch.manual_seed(0)
    mine, theirs, arguments = POOLS[pool]
    # Rounded to a few values: many maxima are equal, and the first must take the gradient.
    input = torch.randn(2, C, 13, 17).round(decimals=1).to(dtype)
    assert_gradients_agree(lambda x: mine(x, **arguments), lambda x: theirs(x, **arguments), [input], random_grad())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pool", ["max 3/2", "avg 3/2", "adaptive 3x5"])
def test_pools_in_any_layout(pool, layout):
    torch.manual_seed(0)
    mine, theirs, arguments = POOLS[pool]
    input = laid_out(torch.randn(3, 24, 13, 17), layout)
    assert_gradients_agree(
        lambda x: mine(x, **arguments), lambda x: theirs(x, **arguments), [input], random_grad(layout)
    )


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_max_pool_of_special_values(value, isa):
    input = torch.randn(1, 20, 9, 9)
    input[0, :, 2:5, 2:5] = value
    input[0, 3] = float("-inf")
    grad = torch.randn(1, 20, 5, 5)
    arguments = dict(kernel_size=3, stride=2, padding=1)
    (ours,) = gradients(lambda x: functional.max_pool2d(x, **arguments), [input], grad)
    (theirs,) = gradients(lambda x: TF.max_pool2d(x, **arguments), [input], grad)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("C", "size", "beta"), [(96, 5, 0.75), (7, 5, 0.75), (33, 4, 0.5), (16, 1, 1.0), (50, 7, 0.6), (3, 9, 0.75)]
)
def test_local_response_norm(C, size, beta, dtype, isa):
    torch.manual_seed(0)
    input = torch.randn(2, C, 5, 6).to(dtype)
    arguments = dict(size=size, alpha=0.3, beta=beta, k=2.0)

    def theirs(x):  # PyTorch has none in 16 bits: its float32 result, rounded
        wide = x if x.dtype is torch.float64 else x.float()
        return TF.local_response_norm(wide, **arguments).to(x.dtype)

    assert_gradients_agree(
        lambda x: functional.local_response_norm(x, **arguments), theirs, [input], random_grad("slice")
    )


@pytest.mark.parametrize(("rows", "D", "M"), [(3, 8, 5), (8, 1100, 1000), (0, 8, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear(rows, D, M, dtype):
    torch.manual_seed(0)
    tensors = [torch.randn(rows, D).to(dtype), (torch.randn(M, D) / D**0.5).to(dtype), torch.randn(M).to(dtype)]
    assert_gradients_agree(functional.linear, TF.linear, tensors, lambda output: torch.randn_like(output))


# ---- batch normalisation -----------------------------------------------------------------------------------


class Plain(nn.Module):
    """relu(norm(x) + residual) by PyTorch."""

    def __init__(self, norm, relu):
        super().__init__()
        self.norm, self.relu = norm, relu

    def forward(self, x, residual=None):
        y = self.norm(x)
        y = y if residual is None else y + residual
        return torch.relu(y) if self.relu else y


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize(("C", "mean", "momentum"), [(64, 0.0, 0.1), (37, 3.0, None), (130, 100.0, 0.3), (3, 0.0, 0.0)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(C, mean, momentum, relu, with_residual, affine, isa):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(C, momentum=momentum, affine=affine)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    input, residual = torch.randn(3, C, 15, 13) + mean, torch.randn(3, C, 15, 13)
    grad = random_grad("slice")(input)
    tensors = [input, residual] if with_residual else [input]

    def results(kind, dtype):
        module = copy.deepcopy(norm).to(dtype)
        plain, act = Plain(module, relu), nn.ReLU() if relu else None

        def function(x, r=None):
            return plain(x, r) if kind == "plain" else batch_norm.training_step(module, x, act, r)

        leaves = [t.detach().clone().to(dtype).requires_grad_() for t in tensors]
        function(*[t.detach() for t in leaves])  # two steps: what the running statistics say depends on both
        output = function(*leaves)
        output.backward(grad.to(dtype))
        parameters = [p.grad for p in module.parameters()]
        return [output, *[t.grad for t in leaves], *parameters, module.running_mean, module.running_var], module

    ours, module = results("fused", torch.float32)
    theirs, _ = results("plain", torch.float32)
    exact, _ = results("plain", torch.float64)
    assert module.num_batches_tracked == 2
    for mine, torchs, true in zip(ours, theirs, exact, strict=True):
        scale = max(true.norm().item(), (grad.double().norm() * 1e-2).item())  # sums that cancel to nearly nothing
        allowed = 2 * (torchs.double() - true).norm() + 2 * torch.finfo(torch.float32).eps * scale
        assert (mine.double() - true).norm() <= allowed


def test_batch_norm_steps_aside(monkeypatch):
    """Where a hook looks on, in evaluation, for subclasses, for one value a channel, under a demanded reference."""
    norm, relu, x = nn.BatchNorm2d(4), nn.ReLU(), torch.randn(2, 4, 5, 5)
    assert batch_norm.training_step(norm, x, relu) is not None
    assert batch_norm.training_step(norm.eval(), x, relu) is None
    norm.train()
    assert batch_norm.training_step(nn.SyncBatchNorm(4), x, relu) is None
    assert batch_norm.training_step(norm, torch.randn(1, 4, 1, 1), relu) is None
    assert batch_norm.training_step(norm, torch.randn(4, 5, 5), relu) is None
    assert batch_norm.training_step(norm, torch.randn(2, 3, 5, 5), relu) is None
    with fastcnn.use_backend("reference"):
        assert batch_norm.training_step(norm, x, relu) is None
    handle = relu.register_forward_hook(lambda *a: None)
    assert batch_norm.training_step(norm, x, relu) is None
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *a: None)
    assert batch_norm.training_step(norm, x, relu) is None
    handle.remove()
    before = norm.num_batches_tracked.clone()
    norm.register_full_backward_hook(lambda *a: None)
    assert batch_norm.training_step(norm, x, relu) is None
    assert norm.num_batches_tracked == before


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_second_derivative_of_batch_norm(relu, with_residual):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5)
    input, residual = torch.randn(2, 5, 4, 3), torch.randn(2, 5, 4, 3)

    def penalty(function):
        x, r = input.clone().requires_grad_(), residual.clone().requires_grad_()
        y = function(x, r if with_residual else None)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), [x, norm.weight])

    ours = penalty(lambda x, r: batch_norm.training_step(norm, x, nn.ReLU() if relu else None, r))
    theirs = penalty(Plain(norm, relu))
    for mine, torchs in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-3, atol=1e-3)


# ---- whole networks ----------------------------------------------------------------------------------------


def small_network(name):
    torch.manual_seed(0)
    if name == "resnet":
        return fastcnn.models.resnet20_cifar(), torch.randn(4, 3, 32, 32)
    if name == "lenet5":
        return fastcnn.models.lenet5(), torch.randn(4, 1, 32, 32)
    block = fastcnn.nn.Inception(16, 16, 16, 40, 8, 40, 16)
    stem = fastcnn.nn.Conv2d(3, 16, 5, 2, activation="relu")
    head = nn.Sequential(fastcnn.nn.LocalResponseNorm(5), fastcnn.nn.MaxPool2d(3, 2), nn.Flatten())
    return nn.Sequential(stem, block, head, fastcnn.nn.Linear(112 * 6 * 6, 10)), torch.randn(4, 3, 31, 31)


def step(network, input):
    network.zero_grad()
    network(input).square().mean().backward()
    return [p.grad.clone() for p in network.parameters() if p.requires_grad]


@pytest.mark.parametrize("name", ["resnet", "lenet5", "inception"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_networks_have_the_gradients_of_the_reference(name, channels_last):
    network, input = small_network(name)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
        input = input.contiguous(memory_format=torch.channels_last)
    ours = step(copy.deepcopy(network), input)
    with fastcnn.use_backend("reference"):
        theirs, exact = step(copy.deepcopy(network), input), step(network.double(), input.double())
    for mine, torchs, true, parameter in zip(ours, theirs, exact, network.parameters(), strict=True):
        strides = zip(mine.stride(), parameter.stride(), parameter.shape, strict=True)
        assert all(a == b or size == 1 for a, b, size in strides)  # or the optimiser would be slow
        # Winograd's bound, over the depth of a network; a ReLU that rounding turns on or off moves more than that.
        error, pytorch = (mine.double() - true).norm() / true.norm(), (torchs.double() - true).norm() / true.norm()
        assert error <= max(2 * pytorch, 2e-4)


@pytest.mark.parametrize("name", ["resnet", "inception"])
def test_the_same_bits_on_one_thread_and_two_and_in_any_run(name):
    network, input = small_network(name)
    state = copy.deepcopy(network.state_dict())
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            network.load_state_dict(state)
            results.append([*step(network, input), *[b.clone() for b in network.buffers()]])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_eager_gradients_go_round_torch_library(monkeypatch):
    """The light door is taken in eager mode alone: what traces sees the registered operator."""
    calls = []
    op = fastcnn.ops.add_relu
    real = op._torch_op
    monkeypatch.setattr(op, "_torch_op", lambda *args: calls.append(1) or real(*args))
    a, b = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    functional.add_relu(a, b).sum().backward()
    assert not calls
    assert a.grad is not None
    torch.fx.experimental.proxy_tensor.make_fx(lambda a: functional.add_relu(a, b))(a)
    assert calls


def test_a_step_holds_no_more_memory_than_pytorchs():
    """What the graph saves: no output that the gradient does not read, a byte for each maximum."""

    def saved_bytes(function, *tensors):
        total = {}

        def pack(tensor):
            total[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            output = function(*tensors)
        del output
        return sum(total.values())

    x = torch.randn(2, 32, 20, 20).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(32, 32, 3, 3, requires_grad=True)
    for ours, theirs, tensors in (
        (lambda x: functional.max_pool2d(x, 3, 2), lambda x: TF.max_pool2d(x, 3, 2), [x]),
        (lambda x, w: functional.conv2d(x, w), lambda x, w: TF.conv2d(x, w), [x, weight]),
        (lambda x: functional.linear(x, x[0, 0].detach()), lambda x: TF.linear(x, x[0, 0].detach()), [x]),
    ):
        assert saved_bytes(ours, *tensors) <= saved_bytes(theirs, *tensors)
