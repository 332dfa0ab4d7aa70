"""Building networks quickly, with random weights that keep activations near 1."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

import fastcnn.models


def random_state(state: dict[str, torch.Tensor], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random values of each entry's shape: He's deviation for weights, plausible batch-norm statistics.

    Values repeat with a period of 1,000,003: drawing VGG's 138 million afresh would take most of a test.
    """
    generator = torch.Generator().manual_seed(seed)
    period = 1_000_003
    pool = torch.randn(period, generator=generator).repeat(2)

    def randn(shape: torch.Size) -> torch.Tensor:
        count = shape.numel()
        start = int(torch.randint(period, (1,), generator=generator))
        # Only what is needed is copied: a view of a whole period would keep 4 MB a tensor, 14 GB for 1202 layers.
        values = pool[start : start + min(count, period)]
        return values.repeat(math.ceil(count / period) or 1)[:count].view(shape)

    result = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            result[key] = torch.zeros((), dtype=torch.int64)
        elif key.endswith("running_var") or (key.endswith("weight") and value.dim() == 1):
            result[key] = randn(value.shape).abs().mul_(0.2).add_(0.8)
        elif value.dim() == 1:
            result[key] = randn(value.shape).mul_(0.1)
        else:
            fan_in = math.prod(value.shape[1:])
            result[key] = randn(value.shape).mul_(math.sqrt(2 / fan_in))
    return result


def on_meta(name: str, **arguments: Any) -> torch.nn.Module:
    """The network without memory for its weights: enough for counts and shapes."""
    with torch.device("meta"):
        return fastcnn.models.get_model(name, **arguments)


def randomised(name: str, **arguments: Any) -> torch.nn.Module:
    """The network in eval mode with `random_state`."""
    model = on_meta(name, **arguments)
    model.load_state_dict(random_state(model.state_dict()), assign=True)
    return model.eval()


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def shapes(model: torch.nn.Module, input: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """The shape of every named submodule's output, by a forward pass."""
    found: dict[str, tuple[int, ...]] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: torch.Tensor) -> None:
            found[name] = tuple(output.shape)

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        found[""] = tuple(model(input).shape)
    for handle in handles:
        handle.remove()
    return found


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape
    assert expected.abs().max() > 0
    return float((actual - expected).abs().max() / expected.abs().max())


# The kernels may use Winograd's transforms, the reference may not.
TOLERANCES = {"auto": 1e-4, "reference": 1e-5}


def assert_agrees(model: torch.nn.Module, input: torch.Tensor, expected: torch.Tensor) -> None:
    """The network's output agrees with `expected`, by the kernels and by the reference."""
    for backend, error in errors(model, input, expected):
        assert error <= TOLERANCES[backend], f"{backend}: relative error {error:.2e}"


def errors(model: torch.nn.Module, input: torch.Tensor, expected: torch.Tensor) -> Iterator[tuple[str, float]]:
    for backend in TOLERANCES:
        with torch.no_grad(), fastcnn.use_backend(backend):
            yield backend, relative_error(model(input), expected)
