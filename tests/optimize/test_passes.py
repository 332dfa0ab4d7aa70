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
    (plan,) = zoo.program(optimized, x).plans
    return [kernel.split()[0] for kernel in plan.kernels]


def conv(C, K, size=3, **options):
    return nn.Conv2d(C, K, size, padding=size // 2, **options)


class Residual(nn.Module):
    def __init__(self, swap=False, projection=False, inplace=True):
        super().__init__()
        self.conv, self.bn, self.relu = conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(inplace)
        self.swap, self.projection = swap, conv(8, 8, 1) if projection else None

    def forward(self, x):
        # Of another input: the sum of two convolutions of one input would be one.
        identity = x if self.projection is None else self.projection(torch.relu(x))
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
    expected = ["elementwise", "conv2d", "conv2d"] if projection else ["conv2d"]
    assert kernels(Residual(swap, projection), 2, 8, 9, 7) == expected


@pytest.mark.parametrize("kept", ["NC11", "1C11", "1CHW", "N1HW", "NCH1", "1111"])
@pytest.mark.parametrize("layer", [True, False], ids=["sum of two convolutions", "sum with the input"])
def test_broadcasting_addition_is_computed_as_pytorch_does(kept, layer):
    class Broadcast(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate = conv(4, 4), nn.Conv2d(1 if kept[1] == "1" else 4, 1 if kept[1] == "1" else 4, 1)

        def forward(self, x):
            gate = x.mean([i for i in range(4) if kept[i] == "1"], keepdim=True)
            return torch.relu(self.conv(x) + (self.gate(gate) if layer else gate))

    model = Broadcast().eval()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 4, 6, 5).contiguous(memory_format=memory_format)
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


def test_flattened_image_moves_and_the_weights_of_linear_stay():
    model = nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(48, 5))
    assert kernels(model, 2, 3, 9, 7) == ["conv2d", "adaptive_avg_pool2d", "to_channels_first", "linear"]
    assert kernels(model, 2, 3, 2, 3) == ["conv2d", "to_channels_first", "linear"], "pooling to the size that is there"
    (plan,) = zoo.program(fastcnn.optimize(model.eval()), torch.randn(2, 3, 9, 7)).plans
    assert model[3].weight.data_ptr() in {t.data_ptr() for t in plan.constants}, "copied"


def test_squeeze_and_excitation_is_native():
    class SE(nn.Module):
        def __init__(self, gate):
            super().__init__()
            self.conv, self.down, self.up, self.gate = conv(3, 8), conv(8, 2, 1), conv(2, 8, 1), gate

        def forward(self, x):
            x = nn.functional.silu(self.conv(x))
            return x * self.gate(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))

    native = ["conv2d", "adaptive_avg_pool2d", "conv2d", "conv2d", "elementwise"]
    assert kernels(SE(nn.Sigmoid()), 2, 3, 9, 7) == native
    assert kernels(SE(nn.Hardsigmoid()), 2, 3, 9, 7) == native


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d(2, 1, 0, 2)])
def test_lrn_and_max_pool_are_one_kernel(pool):
    lrn = nn.LocalResponseNorm(5, alpha=0.1, beta=0.75, k=2.0)
    assert kernels(nn.Sequential(conv(3, 21), nn.ReLU(), lrn, pool), 2, 3, 19, 17) == ["conv2d", "lrn_max_pool2d"]


def test_lrn_that_others_read_is_kept():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.lrn = conv(3, 8), nn.LocalResponseNorm(5, alpha=0.5)

        def forward(self, x):
            y = self.lrn(self.conv(x))
            return torch.cat([nn.functional.max_pool2d(y, 3, 1, 1), y], 1)

    assert kernels(Two(), 2, 3, 9, 7) == ["conv2d", "lrn", "pool2d"]


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
    assert "PyTorch runs the network" not in str(fastcnn.explain(optimized, x))


def test_convolutions_in_resnet_and_concats_in_googlenet():
    for name, convolutions in (("resnet18", 20), ("resnet50", 53)):
        optimized = fastcnn.optimize(zoo.build(name))
        (plan,) = zoo.program(optimized, torch.randn(1, 3, 64, 64)).plans
        ops = [kernel.split()[0] for kernel in plan.kernels]
        assert ops.count("conv2d") == convolutions
        assert sorted(set(ops)) == ["adaptive_avg_pool2d", "conv2d", "linear", "pool2d", "to_channels_last"]
        assert len(ops) == convolutions + 4
    for name in ("googlenet", "squeezenet1_1", "densenet121"):
        optimized = fastcnn.optimize(zoo.build(name))
        (plan,) = zoo.program(optimized, torch.randn(1, 3, 64, 64)).plans
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


class Branches(nn.Module):
    """RepVGG's sum: a 3x3 and a 1x1 convolution and an identity, each normalised."""

    def __init__(self, stride=1, groups=1, kernel=(3, 3)):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.large = nn.Conv2d(8, 8, kernel, stride, padding, groups=groups, bias=False)
        self.small = nn.Conv2d(8, 8, 1, stride, groups=groups)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))

    def forward(self, x):
        y = sum([self.norms[0](self.small(x)), self.norms[1](self.large(x))])
        return torch.relu(y + self.norms[2](x) if self.large.stride == (1, 1) else y)


@pytest.mark.parametrize("options", [{}, {"groups": 4}, {"groups": 8}, {"stride": 2}, {"kernel": (1, 5)}], ids=str)
def test_parallel_branches_become_one_convolution(options):
    assert kernels(Branches(**options), 2, 8, 9, 7) == ["conv2d"]


def test_branches_that_do_not_fit_into_each_other_stay_apart():
    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(8, 8, 3), nn.Conv2d(8, 8, 3, padding=2, dilation=2), conv(8, 8, 1, groups=2)
            self.tall, self.wide = nn.Conv2d(8, 8, (3, 1), padding=(1, 0)), nn.Conv2d(8, 8, (1, 3), padding=(0, 1))

        def forward(self, x):
            return self.a(x) + self.b(x), self.a(x) + self.c(x), self.tall(x) + self.wide(x), self.a(x) + self.a(x + 1)

    model, x = Apart().eval(), torch.randn(2, 8, 9, 7)
    for ours, theirs in zip(fastcnn.optimize(model)(x), model(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_split_channels_are_read_and_joined_in_place():
    class Split(nn.Module):
        def __init__(self, split):
            super().__init__()
            self.first, self.split = conv(3, 12), split
            self.convs = nn.ModuleList(conv(4, 4) for _ in range(3))

        def forward(self, x):
            parts = self.split(self.first(x))
            a = self.convs[0](parts[0])
            b = self.convs[1](a + parts[1])
            return torch.cat([a, b.contiguous(), self.convs[2](parts[-1])], 1)

    for split in (
        lambda x: x.chunk(3, 1), lambda x: torch.chunk(x, 3, dim=1), lambda x: x.split(4, dim=1),
        lambda x: torch.split(x, [4, 4, 4], 1), lambda x: (x[:, :4], x[:, 4:8], x[:, 8:]),
    ):  # fmt: skip
        assert kernels(Split(split), 2, 3, 9, 7) == ["conv2d", "conv2d", "elementwise", "conv2d", "conv2d"]


def test_parts_of_the_batch_and_a_ragged_last_part():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = conv(3, 7), conv(1, 2)

        def forward(self, x):
            y = self.conv(x)
            return self.last(y.split(3, 1)[-1]), y.chunk(2)[1], y.chunk(2, 1)[0].contiguous()

    model, x = Odd().eval(), torch.randn(4, 3, 9, 7)
    for ours, theirs in zip(fastcnn.optimize(model)(x), model(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_activation_before_the_sum_stays_before_it():
    class Before(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = fastcnn.nn.Conv2d(8, 8, 3, padding=1, activation="relu")

        def forward(self, x):
            return self.conv(x) + x

    assert kernels(Before(), 2, 8, 9, 7) == ["conv2d", "elementwise"]


def test_two_activations_in_a_row_are_both_computed():
    assert kernels(nn.Sequential(conv(3, 8), nn.Tanh(), nn.ReLU()), 2, 3, 9, 7) == ["conv2d", "elementwise"]


def test_a_convolution_read_with_and_without_activation_runs_once():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(3, 8)

        def forward(self, x):
            y = self.conv(x)
            return torch.cat([y, torch.relu(y)], 1)

    assert kernels(Both(), 2, 3, 9, 7) == ["conv2d", "elementwise"]


def test_concats_of_the_same_values_in_two_orders():
    class Orders(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = conv(3, 4), conv(3, 4), conv(8, 2)

        def forward(self, x):
            a, b = self.a(x), self.b(x)
            return torch.cat([self.last(torch.cat([a, b], 1)), b, a], 1)

    found = kernels(Orders(), 2, 3, 9, 7)
    assert sorted(found) == ["conv2d"] * 3 + ["copy_slice"] * 2


def test_a_broadcast_sum_of_two_convolutions_is_not_merged():
    class Broadcast(nn.Module):
        def __init__(self):
            super().__init__()
            self.corner, self.point = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.corner(x) + self.point(x)

    model, x = Broadcast().eval(), torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(fastcnn.optimize(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_lrn_and_max_pool_write_into_a_concat():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.lrn = conv(3, 8), nn.LocalResponseNorm(5, alpha=0.5)

        def forward(self, x):
            y = self.conv(x)
            return torch.cat([nn.functional.max_pool2d(self.lrn(y), 3, 1, 1), y], 1)

    assert kernels(Joined(), 2, 3, 9, 7) == ["conv2d", "lrn_max_pool2d"]


def test_winograd_takes_the_pool_behind_it():
    def pooled(*layers, shape=(1, 64, 15, 14)):
        model = zoo.perturbed(nn.Sequential(*layers))
        optimized = fastcnn.optimize(model)
        for batch in (1, 3):
            x = torch.randn(batch, *shape[1:])
            with torch.no_grad():
                torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
        (plan,) = zoo.program(optimized, x).plans
        return [kernel for kernel in plan.kernels if "channels_last" not in kernel]

    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    assert pooled(conv(64, 64), relu, pool) == ["conv2d winograd_f4 + max_pool2d"]
    assert pooled(conv(64, 64), pool, relu) == ["conv2d winograd_f4 + max_pool2d", "elementwise relu"]
    assert pooled(conv(64, 64), nn.Sigmoid(), pool, conv(64, 64), pool)[0] == "conv2d winograd_f4 + max_pool2d"
    for other in (nn.MaxPool2d(3, 2), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(2, ceil_mode=True)):
        assert pooled(conv(64, 64), relu, other) == ["conv2d winograd_f4", "pool2d"]
    assert pooled(conv(64, 64, 1), relu, pool) == ["conv2d direct", "pool2d"]


def test_a_convolution_read_twice_keeps_its_pool_apart():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(64, 64)

        def forward(self, x):
            y = self.conv(x)
            return nn.functional.max_pool2d(y, 2), y

    model = zoo.perturbed(Twice())
    x = torch.randn(1, 64, 14, 14)
    with torch.no_grad():
        torch.testing.assert_close(fastcnn.optimize(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_pool_of_a_convolution_goes_into_its_slice():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(64, 64), conv(64, 24)

        def forward(self, x):
            pool = nn.functional.max_pool2d
            return torch.cat([pool(self.b(torch.tanh(x)), 2), pool(torch.relu(self.a(x)), 2)], 1)

    assert "concat" not in kernels(Branches(), 2, 64, 13, 16)


def test_an_activation_behind_a_linear_layer_on_tokens_goes_into_it():
    model, x = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 5)).eval(), torch.randn(2, 3, 7, 8)
    optimized = fastcnn.optimize(model)
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
    rows = fastcnn.explain(optimized, x).rows
    assert [row.operator for row in rows if "reshape" not in row.operator] == ["linear", "linear"]
    assert ("0", "1") in [row.computes for row in rows]
