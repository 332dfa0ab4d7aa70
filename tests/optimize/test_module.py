"""The optimized module as a PyTorch module: moved, copied, pickled, differentiated, shared between threads."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import zoo
from torch import nn

import fastcnn
from fastcnn.optimize import Optimized


@pytest.fixture
def model():
    return zoo.perturbed(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, 1, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
        )
    )  # fmt: skip


@pytest.fixture
def optimized(model):
    return fastcnn.optimize(model)


@pytest.fixture
def x():
    return torch.randn(2, 3, 31, 33)


def test_copies(optimized, x):
    expected = optimized(x)
    for other in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized))):
        assert torch.equal(other(x), expected)
        assert str(fastcnn.explain(other, x)) == str(fastcnn.explain(optimized, x))


def test_copies_do_not_share_weights(optimized, x):
    expected, other = optimized(x), copy.deepcopy(optimized)
    other.load_state_dict({k: torch.zeros_like(t) for k, t in other.state_dict().items()})
    assert torch.equal(optimized(x), expected)
    assert not other(x).any()


def test_state_dict_round_trip(model, optimized, x):
    other = fastcnn.optimize(zoo.perturbed(copy.deepcopy(model)))
    other(x)
    other.load_state_dict({k: 2 * t for k, t in other.state_dict().items()})
    other.load_state_dict(optimized.state_dict())
    assert torch.equal(other(x), optimized(x))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 3e-2), (torch.float64, 1e-6)])
def test_dtypes(model, optimized, x, dtype, tolerance):
    expected = model(x).double()
    assert optimized.to(dtype) is optimized
    y = optimized(x.to(dtype))
    assert y.dtype == dtype
    assert ((y.double() - expected).norm() / expected.norm()).item() < tolerance


def test_empty_batch(model, optimized):
    x = torch.randn(0, 3, 31, 33)
    assert optimized(x).shape == model(x).shape


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_layouts_and_views_in_any_order(model, optimized, order):
    """What was made for one layout must not read another."""
    big = torch.full((4, 6, 40, 70), float("nan"))
    big[1:3, 2:5, 4:35, 3:69:2] = torch.randn(2, 3, 31, 33)
    view = big[1:3, 2:5, 4:35, 3:69:2]
    expected = model(view)
    layouts = (view, view.contiguous(), view.contiguous(memory_format=torch.channels_last))
    for x in (layouts[i] for i in order):
        torch.testing.assert_close(optimized(x), expected, rtol=1e-4, atol=1e-5)


def test_one_network_at_two_dtypes_and_numbers_of_threads():
    net = nn.Sequential(nn.LocalResponseNorm(3, alpha=0.5), nn.MaxPool2d(2)).eval()
    optimized, x = fastcnn.optimize(net), torch.randn(2, 8, 9, 7)
    for dtype in (torch.float32, torch.float64):  # PyTorch has no such normalisation in 16 bits
        y = optimized(x.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), net(x.double()), rtol=2e-2, atol=2e-2)
    before, program = torch.get_num_threads(), zoo.program(optimized, x)
    try:
        torch.set_num_threads(before + 1)
        assert zoo.program(optimized, x) is not program
    finally:
        torch.set_num_threads(before)
    assert zoo.program(optimized, x) is program


def test_a_number_as_input_counts_with_its_value_and_type():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x, scale):
            y = self.conv(x)
            return y * (scale + 1), torch.ones_like(y, dtype=torch.int32) * (scale + 1)

    net = Scaled().eval()
    optimized, x = fastcnn.optimize(net), torch.randn(2, 3, 8, 8)
    for scale in (2, 2.0, 3, 1, True):
        for ours, theirs in zip(optimized(x, scale), net(x, scale), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
            assert ours.dtype == theirs.dtype


def test_every_value_between_steps_is_dropped_once():
    """Kept to the end, the activations of all layers would be alive at once."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Softshrink(), nn.Conv2d(4, 4, 3), nn.Softshrink(), nn.Conv2d(4, 4, 1), nn.Softshrink()
    )
    program = zoo.program(fastcnn.optimize(net.eval()), torch.randn(1, 3, 9, 9))
    assert len(program._steps) == 6
    dropped = [[node.name for node in step.frees] for step in program._steps]
    assert [len(names) for names in dropped] == [1] * 6
    assert len({name for names in dropped for name in names}) == 6


def test_outputs_are_not_overwritten(optimized, x):
    first = optimized(x)
    kept = first.clone()
    optimized(torch.randn_like(x))
    assert torch.equal(first, kept)


def test_keyword_default_and_structured_arguments():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, image, scale=2.0):
            y = self.conv(image)
            return {"y": y * scale, "both": (y, y.mean((2, 3)))}

    net = Net().eval()
    optimized, x = fastcnn.optimize(net), torch.randn(2, 3, 8, 8)
    for call in (lambda m: m(x), lambda m: m(image=x), lambda m: m(x, scale=3.0), lambda m: m(x, 4)):
        torch.testing.assert_close(call(optimized), call(net), rtol=1e-4, atol=1e-5)


def test_eight_threads_at_changing_shapes_get_the_bits_of_one(optimized):
    inputs = [torch.randn(1 + i % 3, 3, 24 + 4 * (i % 5), 40) for i in range(40)]
    alone = [optimized(x) for x in inputs]
    fresh = copy.deepcopy(optimized)  # the threads find no program made
    with ThreadPoolExecutor(8, initializer=torch.set_grad_enabled, initargs=(False,)) as pool:
        for _ in range(3):
            together = list(pool.map(fresh, inputs))
            assert all(map(torch.equal, together, alone))


def test_backends(model, optimized, x):
    expected = model(x)
    with fastcnn.use_backend("reference"):
        torch.testing.assert_close(optimized(x), expected, rtol=1e-4, atol=1e-5)
        assert not zoo.program(optimized, x).plans
    with fastcnn.use_backend("cpu"):
        assert zoo.program(optimized, x).plans


def test_one_weight_is_packed_for_each_algorithm_that_shapes_choose():
    model = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1)).eval()
    optimized, algorithms = fastcnn.optimize(model), set()
    for size in (2, 7, 33, 2, 33):
        x = torch.randn(1, 32, size, size)
        torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
        algorithms |= {
            kernel for plan in zoo.program(optimized, x).plans for kernel in plan.kernels if "conv2d" in kernel
        }
    assert len(algorithms) > 1


def test_threads_share_a_network_that_packs_on_each_call():
    model = nn.Sequential(nn.Conv2d(96, 160, 3, padding=1), nn.ReLU(), nn.Conv2d(160, 200, 1)).eval()
    optimized = fastcnn.optimize(model, prepack=False)
    inputs = [torch.randn(1, 96, size, size) for size in (7, 14, 20)]
    expected = [optimized(x) for x in inputs]
    with ThreadPoolExecutor(8, initializer=torch.set_grad_enabled, initargs=(False,)) as pool:
        for _ in range(4):
            assert all(map(torch.equal, pool.map(optimized, inputs * 4), expected * 4))


def test_linear_weights_are_read_wherever_they_lie():
    wide = torch.full((9, 20), float("nan"))
    wide[:, 3:14] = torch.randn(9, 11)
    layers = [nn.Linear(11, 9) for _ in range(3)]
    for layer, weight in zip(
        layers, (wide[:, 3:14], torch.randn(11, 9).t(), torch.randn(1, 11).expand(9, 11)), strict=True
    ):
        layer.weight = nn.Parameter(weight)
        x = torch.randn(5, 11)
        model = nn.Sequential(nn.ReLU(), layer).eval()
        torch.testing.assert_close(fastcnn.optimize(model)(x), model(x))
        with torch.no_grad():
            torch.testing.assert_close(fastcnn.functional.linear(x, layer.weight), x @ layer.weight.t())


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_var", "1.weight", "4.weight", "8.bias"])
def test_changed_weights_are_followed(model, optimized, x, name):
    """Shared ones, and those that batch normalisation was folded into; without another capture."""
    before, copied = optimized(x), copy.deepcopy(optimized)
    program = zoo.program(optimized, x)
    model.state_dict()[name].add_(1)
    assert not torch.equal(optimized(x), before)
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
    assert zoo.program(optimized, x) is program
    assert torch.equal(copied(x), before), "a copy has weights of its own"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_without_gradients_give_the_same_bits(optimized, x, mode):
    expected = optimized(x)
    with mode():
        y = optimized(x)
    assert torch.equal(y, expected)
    assert y.is_inference() == (mode is torch.inference_mode)


def test_gradients_are_those_of_the_model(model, optimized, x):
    twin = copy.deepcopy(model)
    optimized(x)
    with torch.enable_grad():
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        optimized(ours).square().sum().backward()
        twin(theirs).square().sum().backward()
        assert optimized(x).requires_grad, "the weights take gradients"
    torch.testing.assert_close(ours.grad, theirs.grad)
    for a, b in zip(optimized.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_class_and_all_attributes_are_those_of_the_given_model(model, optimized):
    assert isinstance(optimized, nn.Sequential)
    assert isinstance(optimized, Optimized)
    assert list(optimized.state_dict()) == list(model.state_dict())
    assert optimized[0] is model[0]
    assert len(optimized) == len(model)
    model.name = "a"
    assert optimized.name == "a"
    optimized.name = "b"
    assert model.name == "b"
    assert [id(p) for p in optimized.parameters()] == [id(p) for p in model.parameters()]
    assert model.forward.__func__ is nn.Sequential.forward


def test_training_through_the_optimized_module(model, optimized, x):
    before = optimized(x)
    assert optimized.train() is optimized
    assert model.training
    assert optimized.training
    with torch.enable_grad():
        sgd = torch.optim.SGD(optimized.parameters(), 0.1)
        optimized(x).square().sum().backward()
        sgd.step()
    assert not optimized.eval().training
    assert not torch.equal(optimized(x), before)
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_model_in_training_mode_runs_as_in_evaluation_mode(model, x):
    expected, model = model(x), model.train()
    optimized = fastcnn.optimize(model)
    statistics = model[1].running_mean.clone()
    for _ in range(3):
        torch.testing.assert_close(optimized(x), expected, rtol=1e-4, atol=1e-5)
    assert all(m.training for m in model.modules())
    assert not optimized.training
    assert torch.equal(model[1].running_mean, statistics)
    optimized.train()(x)
    assert not torch.equal(model[1].running_mean, statistics)


def test_bad_input_gets_the_models_error(optimized, x):
    optimized(x)  # what was made for it must not serve another dtype
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 4 channels"):
        optimized(torch.randn(2, 4, 31, 33))
    with pytest.raises(RuntimeError, match="type"):
        optimized(torch.randn(2, 3, 31, 33, dtype=torch.float64))
    with pytest.raises(TypeError, match="optimize: model is builtin"):
        fastcnn.optimize(torch.relu)


def test_programs_are_bounded(optimized):
    plans = optimized._fastcnn
    plans.MAX_PROGRAMS = 4
    inputs = [torch.randn(1, 3, size, size) for size in range(20, 30)]
    programs = [zoo.program(optimized, x) for x in inputs]
    assert [captured.program for captured in plans._captured.values()] == programs[-4:]
    assert zoo.program(optimized, inputs[-1]) is programs[-1]


def test_nothing_is_packed_ahead_without_prepack(model, x):
    optimized = fastcnn.optimize(model, prepack=False)
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
    assert "packed on each call" in str(fastcnn.explain(optimized, x))
    entries = optimized._fastcnn._constants._entries.values()
    assert not [name for entry in entries for name in entry.forms if isinstance(name, tuple)]
    for other in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized))):
        assert "packed on each call" in str(fastcnn.explain(other, x))
        assert torch.equal(other(x), optimized(x))
    last = fastcnn.optimize(copy.deepcopy(model).to(memory_format=torch.channels_last), prepack=False)
    torch.testing.assert_close(last(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_model_made_in_inference_mode_gives_gradients_of_its_input(x):
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    optimized = fastcnn.optimize(model)
    with torch.enable_grad():
        x.requires_grad_()
        optimized(x).sum().backward()
    assert x.grad.abs().sum() > 0
    torch.testing.assert_close(optimized(x.detach()), model(x.detach()), rtol=1e-4, atol=1e-5)
