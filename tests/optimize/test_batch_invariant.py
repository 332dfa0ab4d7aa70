"""optimize(model, batch_invariant=True): an image's bits, whatever the batch, its place and the threads."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import fastcnn
from fastcnn import models

# Image sizes at which each network's layers fall on both sides of the rules by which kernels are chosen.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "lenet5": (lambda: models.lenet5(), (1, 32, 32)),
    "alexnet": (lambda: models.alexnet(num_classes=10), (3, 227, 227)),
    "googlenet": (lambda: models.googlenet(num_classes=10), (3, 64, 64)),
    "resnet18": (lambda: models.resnet18(num_classes=10), (3, 64, 64)),
    "vgg11": (lambda: models.vgg11(num_classes=10), (3, 32, 32)),
}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def differing(name: str, sizes: range, threads: Callable[[int], None], **options: bool) -> int:
    """How many of the images' results differ from those of each image alone on one thread."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = fastcnn.optimize(make().eval(), check=False, **options)
    images = torch.randn(max(sizes), *shape)
    with torch.no_grad():
        threads(1)
        alone = torch.cat([model(image[None]) for image in images])
        threads(2)
        found = [(model(images[:size]), alone[:size]) for size in sizes]
        found.append((model(images.flip(0)), alone.flip(0)))
    return sum(int((got != one).flatten(1).any(1).sum()) for got, one in found)


@pytest.mark.parametrize("name", ["lenet5", "resnet18"])
def test_results_do_not_depend_on_the_batch(name: str, threads: Callable[[int], None]) -> None:
    assert differing(name, range(1, 10, 4), threads, batch_invariant=True) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_results_do_not_depend_on_the_batch_from_1_to_9(name: str, threads: Callable[[int], None]) -> None:
    assert differing(name, range(1, 10), threads, batch_invariant=True) == 0


def test_by_default_they_may(threads: Callable[[int], None]) -> None:
    """If this fails, the default has become invariant, and the option may go."""
    assert differing("resnet18", range(1, 10, 4), threads) > 0
