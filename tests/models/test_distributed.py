"""The two-device AlexNet equals the single-device one: two processes over gloo."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from model_helpers import TOLERANCES, on_meta, randomised, relative_error

from fastcnn.models.two_devices import TwoDeviceAlexNet


def half_of(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    return tensor.chunk(2)[rank]


def compare(rank: int, variant: str, folder: str) -> None:
    """One process: its half's logits and gradients against the whole net's.

    Gradients in float64: in float32 a rounding that moves one value across ReLU's corner, or changes which of a
    max-pool's inputs wins, changes them by a part in a thousand.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = randomised("alexnet", variant=variant, num_classes=7)
    torch.manual_seed(0)
    x = 20 * torch.randn(1, 3, 224, 224)  # large, so that normalisation matters
    with torch.no_grad():
        assert relative_error(TwoDeviceAlexNet(model)(x), model(x)) < TOLERANCES["auto"]

    model, x = model.double(), x.double()
    two = TwoDeviceAlexNet(model)
    assert two.conv2.weight.shape[:2] == (128, 48)
    assert sum(p.numel() for p in two.parameters()) < 0.51 * sum(p.numel() for p in model.parameters())
    whole, halves = model(x), two(x)
    assert relative_error(halves, whole) < 1e-12
    if variant == "paper":
        with torch.no_grad():
            as_in_the_paper = TwoDeviceAlexNet(model, exact_normalisation=False)(x)
            assert 1e-5 < relative_error(as_in_the_paper, whole) < 0.1

    target = torch.tensor([6])
    torch.nn.functional.cross_entropy(whole, target).backward()
    torch.nn.functional.cross_entropy(halves, target).backward()
    for name, layer in two.named_children():
        if not isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            continue
        twin = getattr(model.features if name.startswith("conv") else model.classifier, name)
        for key, parameter in layer.named_parameters():
            expected = twin.get_parameter(key).grad
            expected = expected if name == "fc8" else half_of(expected, rank)
            error = (parameter.grad - expected).norm() / expected.norm()
            assert error < 1e-10, f"{name}.{key}: {error:.1e}"

    wrong = dist.new_group([0])
    if rank == 0:
        with pytest.raises(ValueError, match="group has 1 processes; 2 are needed"):
            TwoDeviceAlexNet(model, group=wrong)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("variant", ["paper", pytest.param("textbook", marks=pytest.mark.slow)])
def test_two_processes_equal_one(variant: str, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(compare, args=(variant, str(tmp_path)), nprocs=2)


def test_refuses() -> None:
    with pytest.raises(ValueError, match="model is variant 'torchvision', one column"):
        TwoDeviceAlexNet(on_meta("alexnet", variant="torchvision"))
    with pytest.raises(RuntimeError, match="init_process_group first"):
        TwoDeviceAlexNet(on_meta("alexnet"))
