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


@pytest.fixture(scope="module")
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
    y = copy.deepcopy(optimized).to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    expected = model(x).double()
    assert ((y.double() - expected).norm() / expected.norm()).item() < tolerance


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes(optimized, x, mode):
    expected = optimized(x)
    with mode():
        y = optimized(x)
        assert torch.equal(y, expected)
        assert not y.requires_grad


def test_gradient_with_respect_to_the_input(model, optimized, x):
    x.requires_grad_()
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    (gradient,) = torch.autograd.grad(optimized(x).square().sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_train_is_refused(optimized):
    assert optimized.eval() is optimized
    with pytest.raises(RuntimeError, match="an optimized network is for inference"):
        optimized.train()


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_var", "1.weight", "4.weight", "8.bias"])
def test_changed_weights_are_followed(model, x, name):
    """Shared ones, and those that batch normalisation was folded into."""
    model = copy.deepcopy(model)
    optimized = fastcnn.optimize(model)
    moved, copied = fastcnn.optimize(model).to(torch.float64), copy.deepcopy(optimized)
    expected = optimized(x)
    with torch.no_grad():
        model.state_dict()[name].add_(1)
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(copied(x), expected), "a copy has weights of its own"
    torch.testing.assert_close(moved(x.double()), expected.double(), rtol=1e-4, atol=1e-5)
    again = fastcnn.optimize(model)
    del model
    assert not torch.equal(again(x), expected), "the given model may go"


def test_weights_changed_in_a_copy_of_the_optimized_network(optimized, x):
    optimized = copy.deepcopy(optimized)
    before = optimized(x)
    for tensor in optimized.state_dict().values():
        tensor.mul_(2)
    expected = copy.deepcopy(optimized)(x)
    assert torch.equal(optimized(x), expected)
    assert not torch.equal(expected, before)


def test_model_in_training_mode_is_optimized_for_evaluation(model, x):
    training = copy.deepcopy(model).train()
    y = fastcnn.optimize(training)(x)
    assert training.training
    assert all(m.training for m in training.modules())
    torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-5)


def test_bad_input_gets_the_operators_message(optimized, x):
    optimized(x)  # what was made for it must not serve another dtype
    with pytest.raises(ValueError, match="weight has 3 input channels, input has 4"):
        optimized(torch.randn(2, 4, 31, 33))
    with pytest.raises(TypeError):
        optimized(torch.randn(2, 3, 31, 33, dtype=torch.float64))
    with pytest.raises(TypeError, match="optimize: model is builtin"):
        fastcnn.optimize(torch.relu)


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
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        y = optimized(x.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), net(x.double()), rtol=2e-2, atol=2e-2)
    before, program = torch.get_num_threads(), optimized.program(x)
    try:
        torch.set_num_threads(before + 1)
        assert optimized.program(x) is not program
    finally:
        torch.set_num_threads(before)
    assert optimized.program(x) is program


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
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Mish(), nn.Conv2d(4, 4, 3), nn.Mish(), nn.Conv2d(4, 4, 1), nn.Mish())
    program = fastcnn.optimize(net.eval()).program(torch.randn(1, 3, 9, 9))
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


def test_control_flow_falls_back_to_the_layers():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x):
            return torch.relu(self.bn(self.conv(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.blocks = nn.Conv2d(3, 4, 3), nn.ModuleList([Block(), Block()])

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks if x.mean() > 0 else self.blocks[:1]:
                x = block(x)
            return x

    net = zoo.perturbed(Net())
    optimized = fastcnn.optimize(net)
    for x in (torch.randn(2, 3, 8, 8), torch.randn(1, 3, 9, 12)):
        torch.testing.assert_close(optimized(x), net(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(optimized)(x), net(x), rtol=1e-4, atol=1e-5)
    report = str(fastcnn.explain(optimized, x))
    assert "layer by layer: Net" in report
    assert "blocks.0" in report


def test_hooks_run():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    seen = []
    net[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    optimized, x = fastcnn.optimize(net), torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(optimized(x), net(x))
    assert len(seen) == 2


def test_eight_threads_at_changing_shapes_get_the_bits_of_one(optimized):
    inputs = [torch.randn(1 + i % 3, 3, 24 + 4 * (i % 5), 40) for i in range(40)]
    alone = [optimized(x) for x in inputs]
    fresh = copy.deepcopy(optimized)  # the threads find no program made
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            together = list(pool.map(fresh, inputs))
            assert all(map(torch.equal, together, alone))


def test_programs_are_bounded(optimized):
    optimized.MAX_PROGRAMS = 4
    inputs = [torch.randn(1, 3, size, size) for size in range(20, 30)]
    programs = [optimized.program(x) for x in inputs]
    assert list(optimized._programs.values()) == programs[-4:]
    assert optimized.program(inputs[-1]) is programs[-1]


def test_backends(model, optimized, x):
    expected = model(x)
    with fastcnn.use_backend("reference"):
        torch.testing.assert_close(optimized(x), expected, rtol=1e-4, atol=1e-5)
        assert not optimized.program(x).plans
    with fastcnn.use_backend("cpu"):
        assert optimized.program(x).plans


def test_one_weight_is_packed_for_each_algorithm_that_shapes_choose():
    model = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1)).eval()
    optimized, algorithms = fastcnn.optimize(model), set()
    for size in (2, 7, 33, 2, 33):
        x = torch.randn(1, 32, size, size)
        torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
        algorithms |= {kernel for plan in optimized.program(x).plans for kernel in plan.kernels if "conv2d" in kernel}
    assert len(algorithms) > 1


def test_nothing_is_packed_ahead_without_prepack(model, x):
    optimized = fastcnn.optimize(model, prepack=False)
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
    assert "packed on each call" in str(fastcnn.explain(optimized, x))
    kept = {t.data_ptr() for t in (*optimized.parameters(), *optimized.buffers())}
    assert all(t.data_ptr() in kept for t in optimized._packed._packed.values())
    last = fastcnn.optimize(copy.deepcopy(model).to(memory_format=torch.channels_last), prepack=False)
    torch.testing.assert_close(last(x), model(x), rtol=1e-4, atol=1e-5)
    kept = {t.data_ptr() for t in (*last.parameters(), *last.buffers())}
    assert all(t.data_ptr() in kept for t in last._packed._packed.values())
    for other in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized))):
        assert "packed on each call" in str(fastcnn.explain(other, x))
        assert torch.equal(other(x), optimized(x))
    half = copy.deepcopy(optimized).half()
    torch.testing.assert_close(half(x.half()).float(), model(x), rtol=5e-3, atol=5e-3)


def test_threads_share_a_network_that_packs_on_each_call():
    model = nn.Sequential(nn.Conv2d(96, 160, 3, padding=1), nn.ReLU(), nn.Conv2d(160, 200, 1)).eval()
    optimized = fastcnn.optimize(model, prepack=False)
    inputs = [torch.randn(1, 96, size, size) for size in (7, 14, 20)]
    expected = [optimized(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
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
