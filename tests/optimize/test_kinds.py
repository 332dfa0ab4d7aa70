"""Kinds of fault that captures are known for: each small network computes what it does in PyTorch, or runs there."""

import copy
import dataclasses
from collections import OrderedDict, namedtuple

import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import nn

import fastcnn

Pair = namedtuple("Pair", "first second")


@dataclasses.dataclass
class Features:
    image: torch.Tensor
    size: int


class Net(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run
        self.conv, self.next = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm, self.gate = nn.BatchNorm2d(4), nn.Parameter(torch.rand(1, 4, 1, 1))
        self.plain, self.calls = torch.rand(4, 1, 1), 0  # a tensor that no state_dict holds
        self.register_buffer("grid", torch.randn(1, 2, 8, 7))

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


def alike(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert type(got) is type(wanted)
    if isinstance(wanted, torch.Tensor):
        assert [s for n, s in zip(got.shape, got.stride(), strict=True) if n > 1] == [
            s for n, s in zip(wanted.shape, wanted.stride(), strict=True) if n > 1
        ]


def layer_scale(s, x):
    return s.norm(s.conv(x)) * s.gate


def frozen_norm(s, x):
    return s.conv(x) * s.gate.reshape(1, -1, 1, 1) + s.plain


def joined_buffer(s, x):
    return torch.cat([s.conv(x), s.grid.expand(len(x), -1, -1, -1)], 1)


def learned_temperature(s, x):
    return s.conv(x) / s.gate.mean()


def standardised(s, x):
    return F.conv2d(x, (s.conv.weight - s.conv.weight.mean()) / s.conv.weight.std(), padding=1)


def image_normalised(s, x):
    return s.conv((x - 0.45) / 0.225)


def coordinates(s, x):
    return s.conv(x) + torch.linspace(-1, 1, x.shape[3], device=x.device)


def literal(s, x):
    return s.conv(x) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]


def zeroed(s, x):
    y = s.conv(x)
    y[:, 0].zero_()
    return s.next(y)


def half_written(s, x):
    y = s.conv(x)
    a, b = y.chunk(2, 1)
    a.mul_(b)
    return s.next(y)


def written_by_view(s, x):
    y = s.conv(x)
    y = y.contiguous()
    y.view(len(x), -1).clamp_(min=0)
    return y


def transposed_write(s, x):
    y = s.conv(x)
    y.mT.add_(1)
    return y


def out(s, x):
    y = s.conv(x)
    torch.clamp(y, 0, 1, out=y)
    return y


def filled_in(s, x):
    y = torch.zeros_like(x)
    y[:, 1:] = x[:, 1:]
    return s.conv(y)


def comparison_in_place(s, x):
    y = s.conv(x)
    z = y.clone()
    z.gt_(0)
    return y * z


def dimension_added_in_place(s, x):
    y = s.conv(x).mean((2, 3))
    y.unsqueeze_(1)
    return y + 1


def relu_in_place_of_a_sum(s, x):
    y = s.conv(x)
    z = s.next(F.relu(y, True))
    z += y
    return F.relu_(z)


def same_twice(s, x):
    y = s.conv(x)
    return [y, y]


def a_dict(s, x):
    return {"a": s.conv(x), "b": {"c": x.shape[0], "d": None}}


def ordered(s, x):
    return OrderedDict(out=s.conv(x), aux=None)


def named(s, x):
    return Pair(s.conv(x), (1, 2.5))


def a_dataclass(s, x):
    return Features(s.conv(x), x.shape[-1])


def the_argument(s, x):
    return x, s.conv(x)


def a_part_of_the_argument(s, x):
    return x[:, :1], s.conv(x)


def a_parameter(s, x):
    return s.gate, s.conv(x)


def constant_result(s, x):
    return torch.arange(4) * 2, s.conv(x)


def attention(s, x):
    y = s.conv(x).flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(y, y, y)


def tokens(s, x):
    return F.layer_norm(s.conv(x).flatten(2).transpose(1, 2), (4,)).softmax(-1)


def upsampled(s, x):
    return s.next(F.interpolate(s.conv(x), scale_factor=2, mode="bilinear"))


def shuffled(s, x):
    return F.pixel_shuffle(s.conv(x), 2)


def padded(s, x):
    return s.next(F.pad(s.conv(x), (1, 0, 2, 1), value=0.5))


def reflected(s, x):
    return s.next(F.pad(s.conv(x), (1, 2, 2, 1), "reflect"))


def argmax(s, x):
    return s.conv(x).argmax(1)


def double_inside(s, x):
    return s.conv(x).double().mean()


def complex_inside(s, x):
    return torch.view_as_complex(s.conv(x)[..., :6].reshape(len(x), 4, 8, 3, 2).contiguous()).abs()


def strided_view(s, x):
    y = s.conv(x).contiguous()
    return y.as_strided((2, 3), (5, 2), 1) + 0


def moved_axis(s, x):
    return s.next(s.conv(x).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))


def empty_slice(s, x):
    return s.conv(x[:0])


PLANNED = [
    layer_scale, frozen_norm, joined_buffer, learned_temperature, standardised, image_normalised, coordinates, literal,
    zeroed, half_written, written_by_view, transposed_write, out, filled_in, comparison_in_place,
    dimension_added_in_place, relu_in_place_of_a_sum, same_twice, a_dict, ordered, named, a_dataclass, the_argument,
    a_part_of_the_argument, a_parameter, constant_result, attention, tokens, upsampled, shuffled, padded, reflected,
    argmax, double_inside, complex_inside, strided_view, moved_axis, empty_slice,
]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("run", PLANNED, ids=lambda run: run.__name__)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_what_is_captured(run, layout):
    net = zoo.perturbed(Net(run))
    optimized = fastcnn.optimize(net)
    for batch in (1, 2):
        for _ in range(4):
            x = torch.randn(batch, 3, 8, 7).contiguous(memory_format=layout)
            got, wanted = optimized(x), net(x)
            if isinstance(wanted, Features):
                assert type(got) is Features
                got, wanted = vars(got), vars(wanted)
            if isinstance(wanted, torch.Tensor):
                alike(got, wanted)
            else:
                assert type(got) is type(wanted)
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        assert zoo.program(optimized, x) is not None


def values_decide(s, x):
    return s.conv(x) if x.mean() > 0 else -s.conv(x)


def item(s, x):
    return s.conv(x) * float(x.max())


def through_numpy(s, x):
    return s.conv(x) + float(x.numpy().sum())


def as_list(s, x):
    return s.conv(x) * x.flatten().tolist()[0]


def nonzero(s, x):
    return s.conv(x)[s.conv(x) > 0]


def noise(s, x):
    return s.conv(x) + torch.rand(1)


def dropout(s, x):
    return F.dropout(s.conv(x), 0.5, True)


def writes_its_argument(s, x):
    x.mul_(2)
    return s.conv(x)


def writes_a_buffer(s, x):
    s.grid += 1
    return s.conv(x) + s.grid.mean()


def writes_a_weight(s, x):
    s.conv.weight.data.mul_(0.5)
    return s.conv(x)


def replaces_a_weight(s, x):
    s.conv.weight.data = s.conv.weight.data * 0.5
    return s.conv(x)


def counts(s, x):
    s.calls += 1
    return s.conv(x) * s.calls


def keeps_its_result(s, x):
    s.kept = s.conv(x)
    return s.kept + 1


def asks_for_gradients(s, x):
    return s.conv(x.requires_grad_())


REFUSED = [
    values_decide, item, through_numpy, as_list, nonzero, noise, dropout, writes_its_argument, writes_a_buffer,
    writes_a_weight, replaces_a_weight, counts, keeps_its_result, asks_for_gradients,
]  # fmt: skip


@pytest.mark.parametrize("run", REFUSED, ids=lambda run: run.__name__)
def test_what_cannot_be_captured_runs_as_the_model_wrote_it(run):
    net = zoo.perturbed(Net(run))
    twin = copy.deepcopy(net)
    optimized, warned = fastcnn.optimize(net), 0
    for i in range(6):
        given = torch.randn(2, 3, 8, 7) * (-1) ** i
        ours, theirs = given.clone(), given.clone()
        torch.manual_seed(i)
        with pytest.warns(UserWarning, match="as it is") if (i == 2 and warned) else torch.no_grad():
            wanted = twin(theirs)
            torch.manual_seed(i)
            got = optimized(ours)
        assert torch.equal(got, wanted)
        assert torch.equal(ours, theirs)
        assert ours.requires_grad == theirs.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), twin.state_dict().values(), strict=True))
    assert net.calls == twin.calls
    assert hasattr(net, "kept") == hasattr(twin, "kept")
    assert zoo.program(optimized, given) is None


def test_the_warning_names_where_and_why():
    net = zoo.perturbed(nn.Sequential(nn.Conv2d(3, 3, 1), Net(values_decide)))
    with pytest.warns(UserWarning, match=r"PyTorch runs Sequential as it is: Net \(1\), test_kinds.py:\d+: the values"):
        fastcnn.optimize(net)(torch.randn(1, 3, 8, 7))


def test_results_share_no_memory_that_the_models_do_not():
    def branches(s, x):
        a = s.conv(x)
        return a, torch.cat([a, s.next(a)], 1), a + 0

    net = zoo.perturbed(Net(branches))
    optimized, x = fastcnn.optimize(net), torch.randn(2, 3, 8, 7)
    for _ in range(3):
        for i in range(3):
            results, wanted = optimized(x), net(x)
            results[i].zero_()
            for j in {0, 1, 2} - {i}:
                torch.testing.assert_close(results[j], wanted[j], rtol=1e-4, atol=1e-5)
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in optimized(x))


def test_what_the_model_holds_may_change():
    net = zoo.perturbed(Net(lambda s, x, mask=None: s.conv(x) * s.calls if mask is None else s.conv(x) * mask))
    optimized, x = fastcnn.optimize(net), torch.randn(2, 3, 8, 7)
    for change in (
        lambda: setattr(net, "calls", 3),
        lambda: setattr(net, "calls", 3.0),
        lambda: setattr(net.conv, "weight", nn.Parameter(torch.randn(4, 3, 3, 3))),
        lambda: setattr(net, "conv", nn.Conv2d(3, 4, 1)),
        lambda: net.conv.register_forward_hook(lambda module, inputs, output: output + 1),
        lambda: net.conv._forward_hooks.clear(),
        lambda: net.plain.add_(1),
    ):
        change()
        for _ in range(4):
            torch.testing.assert_close(optimized(x), net(x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(optimized(x, mask=x[:, :1]), net(x, mask=x[:, :1]), rtol=1e-4, atol=1e-5)
