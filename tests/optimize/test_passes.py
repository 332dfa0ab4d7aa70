"""What each pass does, on networks small enough to count by hand."""

import pytest
import torch
import zoo
from torch import nn

import fastcnn


def kernels(model, *shape):
    """The kernels of the one plan that the network becomes, after checking what it computes."""
    model = zoo.perturbed(model)
    optimized = fastcnn.optimize(model)
    x = torch.randn(*shape).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = model(x.clone())
    torch.testing.assert_close(optimized(x), expected, rtol=1e-4, atol=1e-5)
    report = optimized.__fastcnn_explain__(x)
    assert report.share == 1, report
    (plan,) = optimized.program(x).plans
    return [kernel.split()[0] for kernel in plan.kernels]


def conv(C, K, size=3, **options):
    return nn.Conv2d(C, K, size, padding=size // 2, **options)


class Residual(nn.Module):
    def __init__(self, swap=False, projection=False, inplace=True):
        super().__init__()
        self.conv, self.bn, self.relu = conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(inplace)
        self.swap, self.projection = swap, conv(8, 8, 1) if projection else None

    def forward(self, x):
        identity = x if self.projection is None else self.projection(x)
        y = self.bn(self.conv(x))
        if self.swap:
            return self.relu(identity + y)
        y += identity
        return self.relu(y)


def test_conv_bn_relu_is_one_kernel():
    assert kernels(nn.Sequential(conv(3, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU()), 2, 3, 9, 7) == ["conv2d"]
    assert kernels(nn.Sequential(conv(4, 8, groups=2), nn.BatchNorm2d(8), nn.Sigmoid()), 2, 4, 9, 7) == ["conv2d"]


def test_linear_bn_is_one_kernel():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.bn = nn.Linear(12, 5), nn.BatchNorm1d(5)

        def forward(self, x):
            return torch.relu(self.bn(self.fc(x.flatten(1))))

    assert kernels(Head(), 3, 12, 1, 1) == ["linear"]


def test_bn_before_unpadded_conv_is_folded_and_before_padded_conv_is_not():
    assert kernels(nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, groups=2)), 2, 8, 9, 7) == ["conv2d"]
    assert kernels(nn.Sequential(nn.BatchNorm2d(8), conv(8, 4)), 2, 8, 9, 7) == ["subsample2d", "conv2d"]


def test_bn_of_a_value_with_two_readers_is_not_folded_into_it():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = conv(3, 8), nn.BatchNorm2d(8)

        def forward(self, x):
            y = self.conv(x)
            return torch.cat([y, torch.relu(self.bn(y))], 1)

    assert kernels(Two(), 2, 3, 9, 7) == ["conv2d", "subsample2d"]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("projection", [False, True])
def test_residual_and_relu_go_into_the_convolution(swap, projection):
    assert kernels(Residual(swap, projection), 2, 8, 9, 7) == ["conv2d"] * (1 + projection)


def test_broadcasting_addition_is_computed_as_pytorch_does():
    class Broadcast(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate = conv(4, 4), conv(4, 4)

        def forward(self, x):
            return torch.relu(self.conv(x) + self.gate(x.mean((2, 3), keepdim=True)))

    model, x = Broadcast().eval(), torch.randn(2, 4, 6, 5)
    torch.testing.assert_close(fastcnn.optimize(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_concat_of_concat_copies_nothing():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.last = conv(3, 5), conv(5, 4), conv(9, 3), conv(12, 2)

        def forward(self, x):
            a = self.a(x)
            ab = torch.cat([a, self.b(a)], 1)
            return self.last(torch.cat([ab, self.c(ab)], 1))

    assert kernels(Block(), 2, 3, 9, 7) == ["conv2d"] * 4


def test_concat_of_one_value_twice_and_of_the_input_copies_what_it_must():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(3, 5)

        def forward(self, x):
            y = self.conv(x)
            return torch.cat([y, x, y], 1)

    assert kernels(Twice(), 2, 3, 9, 7) == ["conv2d", "copy_slice", "copy_slice"]


def test_dropout_and_identity_vanish():
    model = nn.Sequential(conv(3, 8), nn.Dropout(), nn.Identity(), nn.Dropout2d(), nn.ReLU())
    assert kernels(model, 2, 3, 9, 7) == ["conv2d"]


def test_flattened_image_reaches_linear_without_a_copy():
    model = nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(48, 5))
    assert kernels(model, 2, 3, 9, 7) == ["conv2d", "adaptive_avg_pool2d", "linear"]
    assert kernels(model, 2, 3, 2, 3) == ["conv2d", "linear"], "pooling to the size that is there"


def test_squeeze_and_excitation_is_native():
    class SE(nn.Module):
        def __init__(self, gate):
            super().__init__()
            self.conv, self.down, self.up, self.gate = conv(3, 8), conv(8, 2, 1), conv(2, 8, 1), gate

        def forward(self, x):
            x = nn.functional.silu(self.conv(x))
            return x * self.gate(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))

    native = ["conv2d", "elementwise", "adaptive_avg_pool2d", "conv2d", "conv2d", "elementwise"]
    assert kernels(SE(nn.Sigmoid()), 2, 3, 9, 7) == native
    assert kernels(SE(nn.Hardsigmoid()), 2, 3, 9, 7) == [*native, "elementwise"]


def test_in_place_operators_reach_later_readers():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = conv(3, 8), nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.conv(x)
            z = self.relu(y)
            return y - z + nn.functional.relu(z, True)  # y is the clamped value here

    model, x = InPlace().eval(), torch.randn(2, 3, 9, 7)
    torch.testing.assert_close(fastcnn.optimize(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_in_place_operator_on_a_view_leaves_the_network_correct():
    class View(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(3, 8)

        def forward(self, x):
            y = self.conv(x)
            y[:, :4].relu_()
            return y

    model, x = View().eval(), torch.randn(2, 3, 9, 7)
    optimized = fastcnn.optimize(model)
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
    assert "shares memory" in str(fastcnn.explain(optimized, x))


def test_convolutions_in_resnet_and_concats_in_googlenet():
    for name, convolutions in (("resnet18", 20), ("resnet50", 53)):
        optimized = fastcnn.optimize(zoo.build(name))
        (plan,) = optimized.program(torch.randn(1, 3, 64, 64)).plans
        ops = [kernel.split()[0] for kernel in plan.kernels]
        assert ops.count("conv2d") == convolutions
        assert sorted(set(ops)) == ["adaptive_avg_pool2d", "conv2d", "linear", "pool2d", "to_channels_last"]
        assert len(ops) == convolutions + 4
    for name in ("googlenet", "squeezenet1_1", "densenet121"):
        optimized = fastcnn.optimize(zoo.build(name))
        (plan,) = optimized.program(torch.randn(1, 3, 64, 64)).plans
        assert "copy_slice" not in plan.kernels


def test_weights_computed_from_weights_are_computed_once():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(3, 8)
            self.register_buffer("mask", (torch.rand(8, 3, 1, 1) > 0.5).float())

        def forward(self, x):
            return nn.functional.conv2d(x, self.conv.weight * self.mask, self.conv.bias.clone(), padding=1)

    assert kernels(Masked(), 2, 3, 9, 7) == ["conv2d"]


def test_random_numbers_are_drawn_on_each_call():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(3, 8)

        def forward(self, x):
            return self.conv(x) + torch.randn_like(self.conv.bias)[:, None, None]

    optimized, x = fastcnn.optimize(Noisy()), torch.randn(2, 3, 9, 7)
    assert not torch.equal(optimized(x), optimized(x))
