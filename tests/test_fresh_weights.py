"""Weights are never stale: each way of changing them shows in the next call, of layers and of optimised networks.

Whatever changes them, the next result must be that of the changed weights, computed in float64 by PyTorch.
"""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import fastcnn
from fastcnn.core import fingerprints


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Enough for what is this small, however many tests run beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Layers(nn.Module):
    """fastcnn's layers; weights of 6.9 KB, which are compared whole, and of 147 KB, which are not."""

    def __init__(self):
        super().__init__()
        self.small = fastcnn.nn.Conv2d(3, 64, 3, padding=1)
        self.large = fastcnn.nn.Conv2d(64, 64, 3, activation="relu")
        self.last = fastcnn.nn.Linear(64, 10)

    def forward(self, x):
        return self.last(self.large(torch.relu(self.small(x))).mean((2, 3)))


class Network(nn.Module):
    """The same and batch normalisation, of PyTorch's layers."""

    def __init__(self):
        super().__init__()
        self.small, self.norm = nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.large, self.last = nn.Conv2d(64, 64, 3), nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.small(x)))
        return self.last(torch.relu(self.large(x)).mean((2, 3)))


class Branching(Network):
    """What tracing cannot follow, so that it is optimised layer by layer."""

    def forward(self, x):
        return super().forward(x if x.sum() > -1e9 else -x)


KINDS = {"layers": Layers, "optimized": Network, "layer by layer": Branching}


class Inference:
    """A model, and what runs it: itself if its layers are fastcnn's, else what `optimize` made of it."""

    def __init__(self, kind, prepare=lambda model: model):
        torch.manual_seed(0)
        self.model = prepare(KINDS[kind]().eval())
        self.runs = self.model if kind == "layers" else fastcnn.optimize(self.model)
        self.x = torch.randn(2, 3, 9, 9)
        self.before = [self() for _ in range(2)][-1]

    def __call__(self):
        with torch.no_grad():
            return self.runs(self.x)

    def expected(self):
        """Of the weights as they are, by PyTorch in float64, from copies."""
        model, x = self.model, self.x.double()

        def value(tensor):
            return tensor.detach().clone().double()

        def layer(module, x):
            if isinstance(module, nn.Linear):
                return F.linear(x, value(module.weight), value(module.bias))
            y = F.conv2d(x, value(module.weight), value(module.bias), padding=module.padding)
            return torch.relu(y) if getattr(module, "activation", None) else y

        with torch.no_grad():
            y = layer(model.small, x)
            if hasattr(model, "norm"):
                norm = model.norm
                state = [value(t) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
                y = F.batch_norm(y, *state, False, 0.0, norm.eps)
            return layer(model.last, torch.relu(layer(model.large, torch.relu(y))).mean((2, 3)))

    def is_fresh(self, changes=True):
        got, expected = self(), self.expected()
        if changes:
            assert relative_error(self.before, expected) > 1e-3, "the change changes nothing"
        assert relative_error(got, expected) < 1e-5
        self.before = got


def relative_error(got, expected):
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def inference(kind):
    return Inference(kind)


# ---- ways of changing --------------------------------------------------------------------------------------


def data_copy(model):
    for p in model.parameters():
        p.data.copy_(torch.randn_like(p) / math.sqrt(p[0].numel()))


def data_multiply(model):
    for p in model.parameters():
        p.data.mul_(1.3)


def data_of_convolutions(model):
    model.large.weight.data.mul_(-1)


def one_element_by_data(model):
    model.small.weight.data.view(-1)[77] += 5


def one_element_of_a_bias_by_data(model):
    model.large.bias.data[63] += 5


def one_element_in_place(model):
    with torch.no_grad():
        model.large.weight.view(-1)[777] += 50


def sign_of_data(model):
    model.large.weight.data.neg_()


def exchanged_channels_by_data(model):
    model.small.weight.data.copy_(model.small.weight.data.flip(0))


def numpy_view(model):
    array = model.large.weight.detach().numpy()
    array *= -2


def other_storage(model):
    for p in model.parameters():
        p.data = p.data * 1.2


def addresses_used_again(model):
    """The allocator hands out the memory of the weights before."""
    for _ in range(4):
        for p in model.parameters():
            p.data = torch.empty(0)
        for p, like in zip(model.parameters(), type(model)().parameters(), strict=True):
            p.data = like.data * 0.5


def to_double_and_back(model):
    model.double()
    data_multiply(model)
    model.float()


def swap_tensors(model):
    for module in (model.small, model.large):
        torch.utils.swap_tensors(module.weight, nn.Parameter(module.weight.detach() * 2))


def load(model):
    model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()})


def load_assigned(model):
    model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()}, assign=True)


def new_parameter(model):
    model.large.weight = nn.Parameter(model.large.weight.detach() * 2)


def new_layer(model):
    model.last = type(model.last)(64, 10)


def initialised(model):
    nn.init.normal_(model.large.weight)
    model.last.reset_parameters()


def vector_to_parameters(model):
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 1.2, model.parameters())


def foreach(model):
    torch._foreach_mul_([p.data for p in model.parameters()], 1.2)


def pruned(model):
    prune.random_structured(model.large, "weight", amount=0.5, dim=0)
    prune.remove(model.large, "weight")


def stepped(optimizer, **options):
    def change(model):
        with torch.enable_grad():
            steps = optimizer(model.parameters(), **options)
            weights = [p.detach().clone() for p in model.parameters()]
            for p, w in zip(model.parameters(), weights, strict=True):
                p.grad = w.cos()
            steps.step()

    change.__name__ = f"{optimizer.__name__} {options}"
    return change


OPTIMIZERS = [
    (torch.optim.SGD, dict(lr=0.1, momentum=0.9)),
    (torch.optim.Adam, dict(lr=0.02)),
    (torch.optim.AdamW, dict(lr=0.02)),
    (torch.optim.Adagrad, dict(lr=0.02)),
]
HOW = [dict(fused=True), dict(foreach=True), dict(foreach=False)]

WAYS = [
    data_copy, data_multiply, data_of_convolutions, one_element_by_data, one_element_of_a_bias_by_data,
    one_element_in_place, sign_of_data, exchanged_channels_by_data, numpy_view, other_storage, addresses_used_again,
    to_double_and_back, swap_tensors, load, load_assigned, new_parameter, new_layer, initialised,
    vector_to_parameters, foreach, pruned,
    *(stepped(optimizer, **options, **how) for optimizer, options in OPTIMIZERS for how in HOW),
]  # fmt: skip


@pytest.mark.parametrize("change", WAYS, ids=lambda change: change.__name__)
def test_every_change_shows_in_the_next_call(inference, change):
    for _ in range(2):
        change(inference.model)
        inference.is_fresh()
    inference.is_fresh(changes=False)


def test_another_process_writes_into_shared_memory(inference, tmp_path):
    """As in Hogwild."""
    weight, path = inference.model.large.weight, tmp_path / "weight"
    path.write_bytes(weight.detach().numpy().tobytes())
    weight.data = torch.from_file(str(path), shared=True, size=weight.numel()).view_as(weight)
    inference.is_fresh(changes=False)
    halves_exchanged = (
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); "
        "h = len(m) // 2; m[:] = m[h:] + m[:h]"
    )
    subprocess.run([sys.executable, "-c", halves_exchanged, str(path)], check=True)
    inference.is_fresh()


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_batch_norm_changes_behind_pytorchs_back(name):
    inference = Inference("optimized")
    getattr(inference.model.norm, name).data.add_(0.5)
    inference.is_fresh()


@pytest.mark.parametrize("kind", ["optimized", "layer by layer"])
def test_batch_norm_recalibrated_in_training_mode(kind):
    """It writes its statistics without counting a version."""
    inference = Inference(kind)
    inference.model.train()
    with torch.no_grad():
        inference.model(3 * inference.x + 1)
    inference.model.eval()
    inference.is_fresh()


def weight_norm(model):
    parametrizations.weight_norm(model.large)
    return model


def doubled(model):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(model.large, "weight", Doubled())
    return model


@pytest.mark.parametrize("prepare", [weight_norm, doubled])
def test_parametrised_weights(kind, prepare):
    inference = Inference(kind, prepare)
    for change in (data_multiply, stepped(torch.optim.SGD, lr=0.1, fused=True)):
        change(inference.model)
        inference.is_fresh()
    parametrize.remove_parametrizations(inference.model.large, "weight")
    inference.is_fresh(changes=False)
    data_multiply(inference.model)
    inference.is_fresh()


def test_averaged_weights(kind):
    source = KINDS[kind]().eval()
    average = torch.optim.swa_utils.AveragedModel(source, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    inference = Inference(kind, lambda _: average.module)
    for _ in range(3):
        stepped(torch.optim.SGD, lr=0.1, fused=True)(source)
        average.update_parameters(source)
    inference.is_fresh()


def test_functional_call(inference):
    """With other weights for one call."""
    runs, before = inference.runs, inference()
    other = {name: 2 * tensor for name, tensor in runs.state_dict().items()}
    with torch.no_grad():
        called = torch.func.functional_call(runs, other, (inference.x,))
    assert torch.equal(inference(), before)
    runs.load_state_dict(other)
    torch.testing.assert_close(inference(), called)
    assert relative_error(called, before) > 0.1


# ---- what a fingerprint of a large tensor may miss ---------------------------------------------------------


def test_an_element_of_a_large_weight_behind_pytorchs_back(inference):
    """The limit that the documents name, and its remedy."""
    for i in range(3):
        inference.model.large.weight.data.view(-1)[777 + i] += 50
        fastcnn.refresh(inference.runs)
        inference.is_fresh()
    with pytest.raises(TypeError, match="refresh: module is Tensor"):
        fastcnn.refresh(inference.x)


@pytest.mark.parametrize("shape", [(1,), (15,), (17, 3), (64, 3, 3, 3), (4096,), (0, 3)], ids=str)
def test_every_element_of_a_small_tensor_is_seen(shape):
    tensor = torch.randn(shape)
    prints, memory = fingerprints.Fingerprints([tensor]), tensor.numpy().reshape(-1).view("uint32")
    for i in range(0, tensor.numel(), 1 + tensor.numel() // 200):
        for bit in (0, 31):
            memory[i] ^= 1 << bit
            assert prints.changed() == [0]
            memory[i] ^= 1 << bit
        assert prints.changed() == []


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t,
        lambda t: t[::2],
        lambda t: t.t(),
        lambda t: t[3:, 5:],
        lambda t: t.view(2, -1, 8, 8).permute(3, 0, 1, 2),
    ],
    ids=["whole", "every second", "transposed", "corner", "permuted"],
)
@pytest.mark.parametrize("rows", [64, 640])
def test_changes_of_whole_views_are_seen(view, rows):
    tensor = view(torch.randn(rows, 64))
    prints = fingerprints.Fingerprints([tensor])
    for change in (lambda: tensor.data.mul_(2), lambda: tensor.data.neg_(), lambda: tensor.data.add_(1e-3)):
        change()
        assert prints.changed() == [0]
        prints.take()
    assert prints.changed() == []


def test_fingerprints_name_what_changed():
    layer = nn.Linear(3, 3)
    tensors = [torch.randn(8), torch.randn(9000), torch.zeros(3, dtype=torch.bfloat16), torch.empty(2, device="meta")]
    with torch.inference_mode():
        tensors.append(torch.randn(5))
    prints = fingerprints.Fingerprints(
        [*tensors, (layer._parameters, "weight"), (layer._parameters, "bias"), ({}, "none")]
    )
    assert prints.changed() == []
    tensors[0].data[3] = 1
    tensors[1].data.mul_(2)
    with torch.inference_mode():
        tensors[4].add_(1)
    layer.bias = nn.Parameter(layer.bias.detach().clone())
    assert prints.changed() == [0, 1, 4, 6]
    prints.take()
    assert prints.changed() == []
    tensors[1][4444] = 3  # counted by the version alone
    assert prints.changed() == [1]
    with pytest.raises(TypeError, match="a tuple is needed"):
        fingerprints.take([tensors[0]])


def test_a_module_is_what_it_was():
    """Its dictionaries and lists, seen by the objects in them."""
    layer = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    layer.sizes = [3, 3]
    watched = [vars(layer), layer._modules, layer._forward_hooks, layer.sizes, vars(layer[0])]
    prints = fingerprints.Fingerprints(watched)
    assert prints.changed() == []
    layer.scale = object()
    handle = layer.register_forward_hook(lambda *_: None)
    layer.sizes[1] = 4
    assert prints.changed() == [0, 2, 3]
    del layer.scale
    handle.remove()
    layer.sizes[1] = 3
    assert prints.changed() == []
    layer[1] = nn.Tanh()
    layer[0].training = False
    assert prints.changed() == [1, 4]


def test_without_dlpacks_table_the_same_changes_are_seen(monkeypatch):
    monkeypatch.setattr(fingerprints, "take", fingerprints._fingerprints_in_python)
    test_every_element_of_a_small_tensor_is_seen((17, 3))
    test_a_module_is_what_it_was()
    for change in (data_copy, other_storage, swap_tensors, one_element_by_data, load_assigned):
        inference = Inference("layers")
        change(inference.model)
        inference.is_fresh()
