"""Training sees its own weights: loss curves are PyTorch's, whatever steps, in one process and in two."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard

import fastcnn

STEPS = 12
OPTIMIZERS = {
    "SGD": lambda p, **how: torch.optim.SGD(p, 0.1, momentum=0.9, **how),
    "Adam": lambda p, **how: torch.optim.Adam(p, 0.01, **how),
    "AdamW": lambda p, **how: torch.optim.AdamW(p, 0.01, **how),
    # Its first step is g / (|g| + eps): with an eps of 1e-10 a gradient that rounding alone tells from zero, as
    # Winograd's does, would move a weight as far as any other.
    "Adagrad": lambda p, **how: torch.optim.Adagrad(p, 0.01, eps=1e-4, **how),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Enough for what is this small, however many tests run beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(layers, dtype=torch.float32):
    """The same weights in fastcnn.nn's layers and in torch.nn's; 0.6 KB, 18 KB and 37 KB of them."""
    torch.manual_seed(0)
    return nn.Sequential(
        layers.Conv2d(1, 16, 3, padding=1), nn.ReLU(), layers.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
        layers.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), layers.Linear(512, 10),
    ).to(dtype)  # fmt: skip


def examples(seed, dtype=torch.float32):
    """Ten classes of pictures, 48 of them, each its class's picture and noise."""
    classes = torch.randn(10, 1, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (48,), generator=generator)
    noise = torch.randn(48, 1, 9, 9, generator=generator, dtype=torch.float64)
    return (classes[labels] + 0.5 * noise).to(dtype), labels


def curve(net, optimizer, dtype=torch.float32):
    """The losses of training, each followed by that of other pictures, in inference."""
    losses = []
    for step in range(STEPS):
        x, labels = examples(10 + step, dtype)
        loss = F.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            x, labels = examples(2, dtype)
            losses += [loss.item(), F.cross_entropy(net(x), labels).item()]
    return torch.tensor(losses, dtype=torch.float64)


def check_curve(ours, make):
    """As near to the exact curve as PyTorch's own is, within rounding's growth from step to step."""
    theirs, exact = (network(nn, dtype) for dtype in (torch.float32, torch.float64))
    theirs, exact = curve(theirs, make(theirs.parameters())), curve(exact, make(exact.parameters()), torch.float64)
    assert exact[-1] < 0.8 * exact[0], "it does not learn"
    error, allowed = (ours - exact).abs().max(), (theirs - exact).abs().max()
    assert error < 4 * allowed + 1e-4, f"{error:.1e}, PyTorch's is {allowed:.1e}"


@pytest.mark.parametrize("how", [dict(fused=True), dict(foreach=True), dict(foreach=False)], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_loss_curve(optimizer, how):
    def make(parameters):
        return OPTIMIZERS[optimizer](parameters, **how)

    net = network(fastcnn.nn)
    check_curve(curve(net, make(net.parameters())), make)


def test_loss_curve_under_torch_compile():
    def make(parameters):
        return OPTIMIZERS["SGD"](parameters, fused=True)

    net = network(fastcnn.nn)
    check_curve(curve(torch.compile(net, backend="aot_eager"), make(net.parameters())), make)


def test_a_weight_that_takes_gradients_is_kept_in_plain_inference_alone(monkeypatch):
    kept = []
    monkeypatch.setattr(fastcnn.core.packing, "_Kept", lambda *entry: kept.append(entry) or Kept(*entry))
    layer, x = fastcnn.nn.Conv2d(4, 8, 3), torch.randn(1, 4, 5, 5)
    for _ in range(2):
        layer(x).sum().backward()
    assert kept == []
    with torch.no_grad():
        layer(x)
    assert len(kept) == 1


Kept = fastcnn.core.packing._Kept


# ---- several processes -------------------------------------------------------------------------------------


def relative_error(got, expected):
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


def follows(model, runs, x, rank):
    """Whether what runs a model keeps to its weights while collectives change them."""
    reference = network(nn, torch.float64).eval()

    def check(what):
        with torch.no_grad():
            reference.load_state_dict(model.state_dict())
            for _ in range(2):
                error = relative_error(runs(x), reference(x.double()))
                assert error < 1e-5, f"{type(runs).__name__}, rank {rank}, after {what}: {error:.1e}"

    check("nothing")
    for p in model.parameters():
        p.data.mul_(1 + rank)
        dist.broadcast(p.data, src=1)
    check("broadcast")
    for p in model.parameters():
        dist.all_reduce(p.data)
    check("all_reduce")


def two_processes(rank, folder):
    """Collectives write into weights without counting a version."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    x = torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(3))
    for layers in (fastcnn.nn, nn):
        torch.manual_seed(rank)
        model = network(layers).eval()
        follows(model, model if layers is fastcnn.nn else fastcnn.optimize(model), x, rank)
    for wrap, name in ((nn.parallel.DistributedDataParallel, "SGD"), (sharded, "Adam")):

        def make(parameters, name=name):
            return OPTIMIZERS[name](parameters, fused=True)

        net = wrap(network(fastcnn.nn))
        check_curve(curve(net, make(net.parameters())), make)
    dist.barrier()
    dist.destroy_process_group()


def sharded(net):
    """FSDP2: weights are gathered for each use, into memory that is given back and used again."""
    for layer in net:
        if list(layer.parameters()):
            fully_shard(layer, mesh=torch.distributed.init_device_mesh("cpu", (2,)), reshard_after_forward=True)
    return fully_shard(net, mesh=torch.distributed.init_device_mesh("cpu", (2,)))


def test_two_processes(tmp_path: Path):
    torch.multiprocessing.spawn(two_processes, args=(str(tmp_path),), nprocs=2)
