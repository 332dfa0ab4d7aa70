"""The demo: LeNet-5 learns to read, five networks run through PyTorch and through fastcnn, pictures show it."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fastcnn import functional
from fastcnn.core import native
from fastcnn.core.files import write_whole, written_whole
from fastcnn.core.version import VERSION
from fastcnn.models import get_model
from fastcnn.models.lenet import LeNet5
from fastcnn.optimize import optimize
from fastcnn.workbench import classify, train
from fastcnn.workbench.report.commands import progress_bar, warn_if_busy
from fastcnn.workbench.report.plain import plain
from fastcnn.workbench.report.timing import Effort, Samples, interleave

NETWORKS = (("alexnet", "paper"), ("vgg16", "D"), ("googlenet", "paper"), ("resnet50", "B"))


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call: median, 10th and 90th percentile."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(samples: Samples) -> Timing:
        return Timing(*(1e3 * t for t in (samples.median, samples.quantile(0.1), samples.quantile(0.9))))


@dataclass(frozen=True)
class Comparison:
    """One network on one picture, through PyTorch and through fastcnn.

    The errors are |y - y64| / |y64| (Euclidean norms), y64 being the same network in float64.
    """

    network: str
    variant: str
    input: str
    torch_error: float
    fastcnn_error: float
    torch_ms: Timing
    fastcnn_ms: Timing

    @property
    def ratio(self) -> float:
        return self.torch_ms.median / self.fastcnn_ms.median


def run(output: Path, *, recipe: train.Recipe | None = None, seconds: float = 8.0) -> dict[str, Any]:
    """The whole demo, its files written to `output`: returns what results.json holds.

    `seconds` is spent on timing each network. Raises ImportError where scikit-learn, matplotlib or Pillow are missing.
    """
    try:
        import PIL.Image  # noqa: F401
        import sklearn  # noqa: F401

        from fastcnn.workbench import figures
    except ImportError as error:
        raise ImportError(f"the demo needs {error.name}: pip install 'fastcnn[demo]'") from error
    started, load = time.perf_counter(), os.getloadavg()[0]
    console = Console()
    warn_if_busy(console)  # before the training, which is a load itself
    recipe = recipe or train.Recipe()
    output.mkdir(parents=True, exist_ok=True)

    console.rule("LeNet-5 learns to read")
    digits = train.load_digits()
    console.print(
        f"{len(digits.images)} handwritten digits to learn from, {len(digits.held_out_images)} held out; "
        "partial C3, trainable subsampling, RBF output, MAP loss."
    )
    lenet, training_seconds = train_with_progress(digits, recipe, console)
    counts = train.confusion(lenet, digits.held_out_images, digits.held_out_labels)
    accuracy = train.accuracy(counts)
    console.print(
        f"{accuracy:.2%} of the held-out digits are read right, after {training_seconds:.0f} s of training.\n"
    )
    save_weights(lenet, output / "lenet5.safetensors")

    console.rule("Five networks, PyTorch and fastcnn")
    digit, label = digits.held_out_images[:1], int(digits.held_out_labels[0])
    save_digit(digit, output / "digit.png")
    photograph = classify.imagenet_input(sample_photograph(output / "photograph.png"))
    comparisons = []
    with progress_bar(console) as progress:
        task = progress.add_task("networks", total=1 + len(NETWORKS))
        progress.update(task, description="lenet5")
        comparisons.append(compare("lenet5", recipe.variant, lenet, digit, "digit", seconds))
        for name, variant in NETWORKS:
            progress.update(task, advance=1, description=name)
            model = randomise(get_model(name, variant=variant).eval(), seed=0)
            comparisons.append(compare(name, variant, model, photograph, "photograph", seconds))
        progress.update(task, advance=1, description="networks")
    console.print(comparison_table(comparisons))
    console.print(
        "PyTorch: the same network on PyTorch's own operators, eager, channels_last; fastcnn: after fastcnn.optimize. "
        f"Both with {torch.get_num_threads()} threads, batch 1, float32, in turns; error against float64.\n"
        "LeNet-5 carries the weights just trained. The others carry random weights, since nothing is downloaded: "
        "their speed and parity mean something, the class they would name does not, so none is shown.\n"
    )

    figures.confusion(
        output / "confusion.png",
        counts,
        f"LeNet-5 on {int(counts.sum())} held-out digits: {accuracy:.2%} right",
    )
    if recipe.variant == "paper":
        maps, f6 = activations(lenet, digit)
        figures.feature_maps(output / "feature_maps.png", digit[0, 0], maps, label)
        centers = lenet.get_buffer("output.centers")
        figures.distances(output / "rbf.png", f6, centers, functional.rbf(f6[None], centers)[0], label)
    figures.speeds(
        output / "speeds.png",
        [c.network for c in comparisons],
        [(c.torch_ms.median, c.torch_ms.low, c.torch_ms.high) for c in comparisons],
        [(c.fastcnn_ms.median, c.fastcnn_ms.low, c.fastcnn_ms.high) for c in comparisons],
        f"One picture through each network: {processor()}, {torch.get_num_threads()} threads",
    )
    results = {
        "fastcnn": VERSION,
        "torch": torch.__version__,
        "processor": processor(),
        "instruction_set": native.extension.cpu.isa() if native.unavailable is None else None,
        "threads": torch.get_num_threads(),
        "load": load,
        "recipe": asdict(recipe),
        "training_seconds": training_seconds,
        "held_out_accuracy": accuracy,
        "confusion": counts.tolist(),
        "networks": [asdict(c) | {"ratio": c.ratio} for c in comparisons],
        "seconds": time.perf_counter() - started,
    }
    write_whole(output / "results.json", json.dumps(results, indent=2) + "\n")
    console.rule(f"Done in {results['seconds']:.0f} s")
    console.print(f"Pictures, weights and results.json are in {output.resolve()}", soft_wrap=True)
    console.print(
        "A picture of your own: python -m fastcnn classify IMAGE --model MODEL --weights FILE", soft_wrap=True
    )
    return results


def train_with_progress(digits: train.Digits, recipe: train.Recipe, console: Console) -> tuple[LeNet5, float]:
    """`train.train` behind a progress bar: the network and the seconds it took."""
    started = time.perf_counter()
    with progress_bar(console) as progress:
        task = progress.add_task("training", total=recipe.epochs)

        def on_epoch(epoch: train.Epoch) -> None:
            progress.update(task, completed=epoch.number, description=f"training, loss {epoch.loss:7.3f}")

        model = train.train(digits, recipe, on_epoch)
    return model, time.perf_counter() - started


def save_weights(model: nn.Module, path: Path) -> None:
    """The state_dict as a .safetensors file."""
    with written_whole(path) as partial:
        safetensors.torch.save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial)


def save_digit(digit: Tensor, path: Path) -> None:
    """A digit (1, 1, 32, 32) as a picture, ink black on white paper, eight times as large."""
    from PIL import Image

    ink = (digit[0, 0] - train.BACKGROUND) / (train.INK - train.BACKGROUND)
    pixels = ((1 - ink.clamp(0, 1)) * 255).round().to(torch.uint8)
    with written_whole(path) as partial:
        Image.fromarray(pixels.numpy()).resize((256, 256), Image.Resampling.BICUBIC).save(partial)


def sample_photograph(path: Path) -> Any:
    """The photograph of a temple that scikit-learn ships, also saved to `path`."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photograph = Image.fromarray(load_sample_image("china.jpg"))
    with written_whole(path) as partial:
        photograph.save(partial)
    return photograph


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Fills a network with random weights (He's normal ones), the same for the same seed; returns it.

    No bias, scale or running mean keeps a neutral value, under which an operator left out would go unnoticed.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.normal_(0, math.sqrt(2 / module.weight[0].numel()), generator=generator)
            if module.bias is not None:
                module.bias.uniform_(-0.1, 0.1, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.uniform_(-0.1, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
    return model


def compare(name: str, variant: str, model: nn.Module, input: Tensor, what: str, seconds: float) -> Comparison:
    """A network in evaluation mode on one input: errors against float64, and times taken in turns."""
    # Made outside inference mode: weights made inside it have no version, so they would be packed at each call.
    double = plain(model).double()
    torch_model = plain(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fastcnn_model = optimize(model)

    def error(output: Tensor) -> float:
        return ((output.double() - exact).norm() / exact.norm()).item()

    with torch.inference_mode():
        exact = double(input.double())
        del double
        errors = error(torch_model(input)), error(fastcnn_model(input))
        samples = interleave(
            {"torch": lambda: torch_model(input), "fastcnn": lambda: fastcnn_model(input)}, Effort(seconds / 2)
        )
    return Comparison(name, variant, what, *errors, *(Timing.of(samples[engine]) for engine in ("torch", "fastcnn")))


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """The comparisons as a table for the terminal."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("\nnetwork", no_wrap=True)
    for column in ("PyTorch\nerror", "fastcnn\nerror", "PyTorch\nms", "fastcnn\nms", "\nratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for c in comparisons:
        table.add_row(
            c.network, f"{c.torch_error:.1e}", f"{c.fastcnn_error:.1e}",
            _milliseconds(c.torch_ms), _milliseconds(c.fastcnn_ms), f"{c.ratio:.2f} x",
        )  # fmt: skip
    table.caption = "ms: median (10th-90th percentile); ratio: PyTorch's median over fastcnn's"
    return table


@torch.inference_mode()
def activations(model: LeNet5, digit: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The maps of C1, S2, C3 and S4 by title, each (C, H, W), and F6's 84 activations."""
    titles = {"c1": "C1, convolution", "s2": "S2, subsampling", "c3": "C3, convolution", "s4": "S4, subsampling"}
    maps, x = {}, digit
    for name, layer in model.features.named_children():
        x = layer(x)
        if name in titles:
            maps[f"{titles[name]}\n{' x '.join(map(str, x.shape[1:]))}"] = x[0].clone()
    return maps, model.f6(x.flatten(1))[0].clone()


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _milliseconds(timing: Timing) -> str:
    median, low, high = (f"{t:.2g}" if t < 10 else f"{t:.0f}" for t in (timing.median, timing.low, timing.high))
    return f"{median} ({low}-{high})"
