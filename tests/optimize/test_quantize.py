"""Networks in 8 bits: plans bit for bit as their operators are defined, errors, layers left in float32."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcnn
from fastcnn.optimize.constants import Constants
from fastcnn.optimize.int8 import observe
from fastcnn.optimize.int8.quantize import _Pass, _tensors_of
from fastcnn.optimize.int8.scale import METHODS, Seen, fake, scale_between
from fastcnn.optimize.module import Options, optimized


class Residual(nn.Module):
    """Residual sums that a convolution takes in, and one that it cannot, before a ReLU and without one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(5, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.norm, self.c = nn.BatchNorm2d(12), nn.Conv2d(5, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.b(F.relu(self.a(x)))) + self.c(x)
        z = F.relu(y)
        return self.b(z + F.max_pool2d(z, 3, 1, 1)) + z


class Branches(nn.Module):
    """Concatenations: of one another, of what others read too, after and before pools; grouped and depthwise layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(5, 8, 1), nn.Conv2d(5, 7, (3, 1), padding=(1, 0))
        self.c, self.d = nn.Conv2d(15, 15, 3, padding=1, groups=15), nn.Conv2d(15, 20, 5, 2, 2, groups=5)
        self.e = nn.Conv2d(35, 9, 3, padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.cat((F.relu(self.a(x)), self.b(x)), 1)
        pooled = F.max_pool2d(first, 3, 2, 1), F.avg_pool2d(self.c(first), 3, 2, 1)[:, :5], self.d(first)[:, 2:17]
        return self.e(torch.cat(pooled, 1))


class Classifier(nn.Module):
    """Linear layers after a flattened image, activations by table, a normalisation that computes in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(5, 16, 3, stride=2, padding=1), nn.Conv2d(16, 24, 3)
        self.lrn = nn.LocalResponseNorm(5)
        self.c, self.d, self.e = nn.LazyLinear(33), nn.Linear(33, 17), nn.Linear(24, 17)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.b(self.lrn(F.relu(self.a(x))))
        y = F.max_pool2d(F.silu(y), 2)
        rows = F.relu(self.c(y.flatten(1)))
        return self.d(rows).softmax(1), self.e(F.adaptive_avg_pool2d(y, 1).flatten(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "branches": Branches,
    "classifier": Classifier,
    "mobile": lambda: nn.Sequential(
        nn.Conv2d(5, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.Hardswish(),
        nn.Conv2d(16, 16, 3, 1, 1, groups=16),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 40, 1),
        nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(40, 10),
    ),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(7)
    model = NETWORKS[name]().eval()
    with torch.no_grad():
        model(torch.randn(2, 5, 19, 23))
    return model


def batches(count: int = 3, images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(images, 5, 19, 23, generator=generator) for _ in range(count)]


def outputs(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def relative_error(got: Any, wanted: Any) -> float:
    pairs = list(zip(outputs(got), outputs(wanted), strict=True))
    lost = sum(float((a - b).square().sum()) for a, b in pairs)
    return (lost / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5


def values_of(captured: Any, x: Tensor) -> dict[Any, Tensor]:
    """Every node's value, each operator run as it is defined."""
    values: dict[Any, Tensor] = {}
    observe.interpret(captured, Constants(), [x], lambda node, args, y: values.update({node: y}))
    return values


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_gives_what_its_operators_are_defined_to(name: str) -> None:
    model, given = network(name), batches()
    rewrite = _Pass(_tensors_of([(x,) for x in given]), "min_max")
    kept = []

    def finish(captured: Any) -> None:
        rewrite(captured)
        kept.append(captured)

    module = optimized(model, Options(check=False, finish=finish), as_eval=False)
    for images in (2, 1, 3):
        x = torch.randn(images, 5, 19, 23)
        with torch.no_grad():
            module(given[0])
            found = outputs(module(x))
        values = values_of(kept[-1], x)
        results = list(kept[-1].graph.nodes)[-1].args[0]
        for ours, node in zip(found, results, strict=True):
            if name == "classifier":  # softmax and LRN are rounded differently by PyTorch and by a plan
                torch.testing.assert_close(ours, values[node], rtol=2e-2, atol=2e-2)
            else:
                assert torch.equal(ours, values[node])
    targets = {getattr(node.target, "__name__", "") for node in kept[-1].graph.nodes}
    assert "quantize" in targets


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_error_is_small_and_as_reported(name: str, method: str) -> None:
    model, given = network(name), batches()
    quantised = fastcnn.quantize(model, given, method=method)
    with torch.no_grad():
        wanted = [model(x) for x in given]
    lost = [relative_error(quantised(x), y) for x, y in zip(given, wanted, strict=True)]
    assert 0 < max(lost) < 0.06
    assert min(lost) <= quantised.error <= max(lost)
    fresh = torch.randn(4, 5, 19, 23)
    with torch.no_grad():
        assert relative_error(quantised(fresh), model(fresh)) < 0.08
    assert all(0 < layer.error < 0.05 for layer in quantised.layers)
    assert not any(layer.kept for layer in quantised.layers)


def int8_layers(quantised: nn.Module) -> int:
    return str(fastcnn.explain(quantised, batches()[0])).count("conv2d_int8")


def test_layers_stay_in_float32_where_asked() -> None:
    model = network("residual")
    plain = fastcnn.quantize(model, batches())
    assert len(plain.layers) == 4
    assert int8_layers(plain) == 4
    both = fastcnn.quantize(model, batches(), first=False, last=False)
    assert [layer.kept for layer in both.layers] == ["the first layer", "", "", "the last layer"]
    assert int8_layers(both) == 2
    assert both.error < plain.error
    one = fastcnn.quantize(model, batches(), keep=["c"])
    assert [layer.name for layer in one.layers if layer.kept == "asked for"]
    assert int8_layers(one) == 3


def test_max_error_is_met_by_leaving_out_the_worst_layers() -> None:
    model = network("residual")
    plain = fastcnn.quantize(model, batches())
    better = fastcnn.quantize(model, batches(), max_error=0.9 * plain.error)
    kept = {layer.name: layer.error for layer in better.layers if layer.kept}
    rest = [layer.error for layer in better.layers if not layer.kept]
    assert better.error <= 0.9 * plain.error
    assert kept
    assert min(kept.values()) >= max(rest, default=0)
    exact = fastcnn.quantize(model, batches(), max_error=0)
    assert all(layer.kept == "for the error asked" for layer in exact.layers)
    assert exact.error < 1e-5
    assert fastcnn.quantize(model, batches(), max_error=1).error == plain.error


def test_changed_weights_are_quantised_again() -> None:
    model, x = network("mobile"), batches()[0]
    quantised = fastcnn.quantize(model, batches())
    before = quantised(x)
    with torch.no_grad():
        model[-1].weight.mul_(2)
        model[-1].bias.mul_(2)
    torch.testing.assert_close(quantised(x), 2 * before)


def test_the_given_model_stays_as_it_is() -> None:
    model = network("residual").train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    quantised = fastcnn.quantize(model, batches())
    quantised(batches()[0])
    assert model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert quantised(batches()[0]).requires_grad is False
    with pytest.raises(RuntimeError, match="for inference"):
        quantised.train()


def test_report_lists_the_layers_that_lose_most_first(capsys: pytest.CaptureFixture[str]) -> None:
    quantised = fastcnn.quantize(network("mobile"), batches(), first=False, report=True)
    lines = capsys.readouterr().out.splitlines()
    errors = [float(line.split("%")[0].split()[-1]) for line in lines[1:-1]]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == len(quantised.layers)
    assert any(line.endswith("float32 (the first layer)") for line in lines)
    assert lines[-1] == f"error of the network's output over the batches: {quantised.error:.2%}"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": 3}, TypeError, "quantize: model is int; a torch.nn.Module is needed"),
        ({"batches": []}, ValueError, "quantize: no batches; at least one is needed"),
        ({"batches": ["x"]}, TypeError, "quantize: batch 0 holds no tensor"),
        ({"batches": [torch.ones(1, 5, 9, 9), torch.ones(2, 5, 9, 9)]}, ValueError, "quantize: batch 1 has shapes"),
        ({"batches": [torch.full((1, 5, 9, 9), float("nan"))]}, ValueError, "a batch gives NaN or infinity in"),
        ({"method": "best"}, ValueError, "method is 'best', must be one of min_max, percentile, least_squares"),
        ({"keep": ["z"]}, ValueError, r"keep names \['z'\], which are no modules of the model"),
        ({"max_error": -1}, ValueError, "max_error is -1, must be at least 0"),
        ({"model": nn.ReLU()}, ValueError, "no layer of ReLU can be quantised"),
    ],
)
def test_errors_in_words(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"model": network("residual"), "batches": batches(), **arguments}
    with pytest.raises(error, match=message):
        fastcnn.quantize(given.pop("model"), given.pop("batches"), **given)


def test_scales() -> None:
    assert scale_between(0, 255) == (1.0, 0)
    assert scale_between(3, 510) == (2.0, 0)
    assert scale_between(-1, 1) == (2 / 255, 128)
    assert scale_between(0, 0) == (1.0, 0)
    # Many values and one far out: clipping it loses less than a coarser scale for all.
    values = torch.randn(800_000, generator=torch.Generator().manual_seed(0))
    values[0] = 12.0
    seen = Seen(float(values.min()), 12.0, samples=[values])
    bounds = {name: choose(seen) for name, choose in METHODS.items()}
    assert bounds["min_max"][1] == 12
    assert bounds["percentile"][1] < 4.5
    lost = {name: float((fake(values, scale_between(*b)) - values).square().mean()) for name, b in bounds.items()}
    assert lost["least_squares"] < 0.9 * lost["min_max"]


@pytest.mark.slow
@torch.enable_grad()
def test_a_trained_network_loses_no_accuracy() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(15):
        for part in torch.randperm(1400).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(x[part]), y[part]).backward()
            optimiser.step()
    model.eval()
    quantised = fastcnn.quantize(model, x[:1024].split(256))
    test, labels = x[1400:], y[1400:]
    with torch.no_grad():
        plain = float((model(test).argmax(1) == labels).float().mean())
    ours = float((quantised(test).argmax(1) == labels).float().mean())
    assert plain > 0.9
    assert ours >= plain - 0.005
