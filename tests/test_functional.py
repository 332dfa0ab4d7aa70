"""The functions through every available backend, judged against float64: shapes, layouts, slices, special values."""

import pytest
import torch
import torch.nn.functional as F

import fastcnn
from fastcnn import functional

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = ["contiguous", "channels_last", "slice", "transposed", "expanded", "cropped"]


def laid_out(tensor, layout):
    """The same values in another memory layout; what surrounds a slice is poisoned with NaN."""
    N, C, H, W = tensor.shape
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "slice":
        wide = torch.full((N, C + 5, H, W), float("nan"), dtype=tensor.dtype).contiguous(
            memory_format=torch.channels_last
        )
        wide[:, 2 : 2 + C] = tensor
        return wide[:, 2 : 2 + C]
    if layout == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "cropped":  # rows and images are not dense
        large = torch.full((N, C, H + 2, W + 3), float("nan"), dtype=tensor.dtype)
        large = large.contiguous(memory_format=torch.channels_last)
        large[:, :, 1 : 1 + H, 2 : 2 + W] = tensor
        return large[:, :, 1 : 1 + H, 2 : 2 + W]
    if layout == "expanded":
        return tensor[:1].expand(N, C, H, W)
    return tensor.contiguous()


def assert_as_accurate(ours, pytorch, exact):
    """At most twice PyTorch's own error (L2) against float64, with an epsilon floor."""
    assert ours.dtype == pytorch.dtype
    assert ours.shape == pytorch.shape
    if exact.numel() == 0:
        return
    floor = torch.finfo(ours.dtype).eps * exact.norm()
    assert (ours.double() - exact).norm() <= 2 * (pytorch.double() - exact).norm() + floor


CONVS = {
    "3x3": dict(C=5, K=7, kernel=(3, 3), padding=1),
    "1x1 stride 2": dict(C=16, K=24, kernel=(1, 1), stride=2),
    "same 4x2": dict(C=3, K=4, kernel=(4, 2), padding="same", dilation=(1, 2)),
    "depthwise": dict(C=6, K=6, kernel=(3, 5), padding=(1, 2), groups=6),
    "grouped": dict(C=8, K=12, kernel=(3, 3), stride=(2, 1), groups=4),
    "wide 3x3": dict(C=64, K=64, kernel=(3, 3), padding=1),
    "5x5": dict(C=32, K=48, kernel=(5, 5), padding=2, groups=2),
}


def conv_arguments(C, K, kernel, groups=1, dtype=torch.float32, N=2, size=(13, 11), **kwargs):
    fan_in = C // groups * kernel[0] * kernel[1]
    input = torch.randn(N, C, *size, dtype=dtype)
    weight = (torch.randn(K, C // groups, *kernel) / fan_in**0.5).to(dtype)
    return input, weight, torch.randn(K, dtype=dtype), dict(groups=groups, **kwargs)


@pytest.fixture
def without_winograd():
    fastcnn.set_winograd_tolerance(0)
    yield
    fastcnn.set_winograd_tolerance(1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", CONVS)
def test_conv2d_is_as_accurate_as_pytorch(shape, dtype, without_winograd):
    input, weight, bias, kwargs = conv_arguments(**CONVS[shape], dtype=dtype)
    ours = functional.conv2d(input, weight, bias, **kwargs)
    exact = F.conv2d(input.double(), weight.double(), bias.double(), **kwargs)
    assert_as_accurate(ours, F.conv2d(input, weight, bias, **kwargs), exact)


def test_winograd_is_chosen_within_its_tolerance():
    input, weight, bias, kwargs = conv_arguments(**CONVS["wide 3x3"], size=(56, 56))
    exact = F.conv2d(input.double(), weight.double(), bias.double(), **kwargs)
    taken = {}
    try:
        for tolerance in (0, 1e-5, 1e-4):
            fastcnn.set_winograd_tolerance(tolerance)
            (choice,) = fastcnn.explain(functional.conv2d, input, weight, bias, **kwargs).choices
            taken[tolerance] = choice.taken.name
            y = functional.conv2d(input, weight, bias, **kwargs)
            assert (y.double() - exact).norm() <= max(tolerance, 1e-6) * exact.norm()
    finally:
        fastcnn.set_winograd_tolerance(1e-5)
    assert "winograd" not in taken[0]
    assert taken[1e-5] in ("winograd_f2", "winograd_f4")
    assert taken[1e-4].startswith("winograd")
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="set_winograd_tolerance: tolerance is"):
            fastcnn.set_winograd_tolerance(wrong)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("N", [0, 1, 3])
def test_conv2d_reads_every_layout(layout, N):
    input, weight, bias, kwargs = conv_arguments(**CONVS["3x3"], N=N)
    input = laid_out(input, layout)
    y = functional.conv2d(input, weight, bias, **kwargs)
    torch.testing.assert_close(y, F.conv2d(input, weight, bias, **kwargs), rtol=1e-4, atol=1e-5)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("activation", [None, "relu", "sigmoid", "tanh", "scaled_tanh"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_conv2d_epilogue_into_a_slice(activation, backend):
    input, weight, bias, kwargs = conv_arguments(**CONVS["3x3"])
    residual = laid_out(torch.randn(2, 7, 13, 11), "slice")
    wide = torch.full((2, 20, 13, 11), 77.0).contiguous(memory_format=torch.channels_last)
    with fastcnn.use_backend(backend):
        y = functional.conv2d(
            input, weight, bias, activation=activation, residual=residual, out=wide[:, 4:11], **kwargs
        )
    exact = F.conv2d(input, weight, bias, **kwargs) + residual
    exact = {
        None: lambda t: t,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "scaled_tanh": lambda t: 1.7159 * torch.tanh(2 / 3 * t),
    }[activation](exact)
    torch.testing.assert_close(wide[:, 4:11], exact, rtol=1e-4, atol=1e-5)
    assert y.data_ptr() == wide[:, 4:11].data_ptr()
    assert (wide[:, :4] == 77).all()
    assert (wide[:, 11:] == 77).all()


def test_conv2d_may_overwrite_its_residual_and_its_neighbour():
    input, weight, bias, kwargs = conv_arguments(**CONVS["3x3"])
    residual = torch.randn(2, 7, 13, 11).contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(input, weight, bias, **kwargs) + residual
    functional.conv2d(input, weight, bias, residual=residual, out=residual, **kwargs)
    torch.testing.assert_close(residual, expected, rtol=1e-4, atol=1e-5)
    # DenseNet's way: a conv reads the first channels of a tensor and writes the next.
    wide = torch.randn(2, 12, 13, 11).contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(wide[:, :5].clone(), weight, bias, **kwargs)
    functional.conv2d(wide[:, :5], weight, bias, out=wide[:, 5:], **kwargs)
    torch.testing.assert_close(wide[:, 5:], expected, rtol=1e-4, atol=1e-5)


def test_conv2d_may_overwrite_its_input():
    input, weight, _, kwargs = conv_arguments(C=16, K=16, kernel=(3, 3), padding=1, size=(40, 40))
    input = input.contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(input, weight, **kwargs)
    functional.conv2d(input, weight, out=input, **kwargs)
    torch.testing.assert_close(input, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_ceil_mode_counts_windows_as_pytorch_does(size, kernel_size):
    x = torch.randn(1, 2, size, 7)
    for stride in (1, 2, 3, 4):
        for padding in range(kernel_size // 2 + 1):
            window = (kernel_size, stride, padding)
            for ours, theirs in ((functional.avg_pool2d, F.avg_pool2d), (functional.max_pool2d, F.max_pool2d)):
                if size + 2 * padding < kernel_size:
                    continue
                torch.testing.assert_close(ours(x, *window, ceil_mode=True), theirs(x, *window, ceil_mode=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_special_values_spread_as_in_pytorch(value):
    input, weight, bias, kwargs = conv_arguments(**CONVS["3x3"])
    input[1, 2, 3, 4] = value
    calls = [
        (functional.conv2d, F.conv2d, (input, weight, bias), kwargs),
        (functional.max_pool2d, F.max_pool2d, (input, 3, 2, 1), {}),
        (functional.avg_pool2d, F.avg_pool2d, (input, 3, 2, 1), {}),
        (functional.adaptive_avg_pool2d, F.adaptive_avg_pool2d, (input, 3), {}),
        (functional.local_response_norm, F.local_response_norm, (input, 3), {}),
        (functional.add_relu, lambda a, b: torch.relu(a + b), (input, -input), {}),
        (functional.linear, F.linear, (input[:, :, 0], torch.randn(4, 11)), {}),
    ]
    for ours, theirs, args, kw in calls:
        torch.testing.assert_close(ours(*args, **kw), theirs(*args, **kw), equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("N", [0, 1, 3])
def test_memory_bound_operators(dtype, layout, N):
    x = laid_out(torch.randn(N, 19, 9, 7, dtype=dtype), layout)
    other = laid_out(torch.randn(N, 19, 9, 7, dtype=dtype), "slice")
    c, b = torch.randn(19, dtype=dtype), torch.randn(19, dtype=dtype)
    wide = x.double()

    def subsample(t, c, b):
        return torch.sigmoid(4 * F.avg_pool2d(t, 2) * c[:, None, None] + b[:, None, None])

    def lrn(t):
        return F.local_response_norm(t.float(), 5, 0.3).to(t.dtype)

    for ours, pytorch, exact in [
        (functional.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 3, 2, 1), F.max_pool2d(wide, 3, 2, 1)),
        (functional.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(wide, 3, 2, 1)),
        (functional.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(wide, 1)),
        (functional.local_response_norm(x, 5, 0.3), lrn(x), F.local_response_norm(wide, 5, 0.3)),
        (functional.add_relu(x, other), torch.relu(x + other), torch.relu(wide + other.double())),
        (functional.concat([x, other]), torch.cat([x, other], 1), torch.cat([wide, other.double()], 1)),
        (
            functional.subsample2d(x, c, b, activation="sigmoid"),
            subsample(x, c, b),
            subsample(wide, c.double(), b.double()),
        ),
    ]:
        assert_as_accurate(ours, pytorch, exact)
        assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N", [0, 1, 2, 65])
def test_linear_and_rbf(dtype, N):
    x, w, b = torch.randn(N, 83, dtype=dtype), torch.randn(37, 83, dtype=dtype), torch.randn(37, dtype=dtype)
    exact = torch.relu(F.linear(x.double(), w.double(), b.double()))
    assert_as_accurate(functional.linear(x, w, b, activation="relu"), torch.relu(F.linear(x, w, b)), exact)
    square = ((x.double()[:, None] - w.double()) ** 2).sum(-1)
    assert_as_accurate(functional.rbf(x, w), ((x[:, None] - w) ** 2).sum(-1), square)
    rows = torch.randn(N, 2 * 83, dtype=dtype)[:, ::2]  # strided rows
    assert_as_accurate(
        functional.linear(rows, w, b), F.linear(rows, w, b), F.linear(rows.double(), w.double(), b.double())
    )


def test_rbf_does_not_cancel_near_a_center():
    centers = 1000 + torch.randn(3, 84)
    x = centers[:1] + 1e-3
    exact = ((x.double()[:, None] - centers.double()) ** 2).sum(-1)
    torch.testing.assert_close(functional.rbf(x, centers).double(), exact, rtol=1e-4, atol=0)


def test_gradients_of_our_own_operators():
    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    cases = [
        (lambda a, b: functional.add_relu(a, b), (leaf(2, 3, 4, 4), leaf(2, 3, 4, 4))),
        (lambda a, b: functional.concat([a, b]), (leaf(2, 3, 4, 4), leaf(2, 1, 4, 4))),
        (
            lambda a, c, b: functional.subsample2d(a, c, b, 2, activation="scaled_tanh"),
            (leaf(2, 3, 5, 4), leaf(3), leaf(3)),
        ),
        (functional.rbf, (leaf(3, 4), leaf(2, 4))),
        (
            lambda a, w, b, r: functional.conv2d(a, w, b, 2, 1, activation="tanh", residual=r),
            (leaf(1, 2, 5, 5), leaf(3, 2, 3, 3), leaf(3), leaf(1, 3, 3, 3)),
        ),
        (lambda a, w, b: functional.linear(a, w, b, activation="sigmoid"), (leaf(2, 3), leaf(4, 3), leaf(4))),
    ]  # fmt: skip
    for function, inputs in cases:
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_transforms_and_forward_mode_agree_with_pytorch():
    x, w = torch.randn(4, 2, 3, 6, 6), torch.randn(5, 3, 3, 3)
    batched = torch.func.vmap(lambda t: functional.conv2d(t, w, padding=1))(x)
    torch.testing.assert_close(batched, torch.func.vmap(lambda t: F.conv2d(t, w, padding=1))(x))
    tangent = torch.randn_like(x[0])
    ours = torch.func.jvp(lambda t: functional.max_pool2d(t, 2), (x[0],), (tangent,))
    theirs = torch.func.jvp(lambda t: F.max_pool2d(t, 2), (x[0],), (tangent,))
    torch.testing.assert_close(ours, theirs)


def test_unbatched_input_and_shorthands():
    x, w = torch.randn(4, 6, 6), torch.randn(5, 4, 3, 3)
    torch.testing.assert_close(functional.conv3x3_relu(x, w), F.conv2d(x, w, padding=1).relu(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        functional.conv1x1_relu(x, w[..., :1, :1]), F.conv2d(x, w[..., :1, :1]).relu(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(functional.max_pool2d(x, 2), F.max_pool2d(x, 2))
    values, indices = functional.max_pool2d(x, 2, return_indices=True)
    torch.testing.assert_close((values, indices), F.max_pool2d(x, 2, return_indices=True))
    y = torch.zeros(5, 4, 4)
    assert functional.conv2d(x, w, out=y) is y
    torch.testing.assert_close(y, F.conv2d(x, w), rtol=1e-4, atol=1e-5)


def test_out_refuses_gradients():
    x, w = torch.randn(1, 2, 4, 4, requires_grad=True), torch.randn(3, 2, 3, 3)
    with pytest.raises(ValueError, match="out= does not support automatic differentiation"):
        functional.conv2d(x, w, out=torch.zeros(1, 3, 2, 2))


def test_conv2d_of_no_image_with_bias_and_residual():
    """Tensors without elements have no address."""
    weight, bias = torch.randn(4, 3, 3, 3), torch.randn(4)
    y = functional.conv2d(torch.randn(0, 3, 8, 8), weight, bias, residual=torch.randn(0, 4, 6, 6))
    assert y.shape == (0, 4, 6, 6)
    net = fastcnn.optimize(fastcnn.models.resnet18(num_classes=3).eval())
    with torch.no_grad():
        assert net(torch.randn(0, 3, 32, 32)).shape == (0, 3)
