"""What the commands train and evaluate print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fastcnn.workbench import demo
from fastcnn.workbench.train import digits as digits_module
from fastcnn.workbench.train import evaluate, plots, run
from fastcnn.workbench.train.settings import Settings


def digits(
    console: Console, output: Path | None, variant: str | None, epochs: int | None, batch_size: int | None,
    learning_rate: float | None, seed: int,
) -> None:  # fmt: skip
    """Trains LeNet-5 on scikit-learn's handwritten digits and reports the accuracy on a held-out third."""
    output = output or Path("lenet5.safetensors")
    if output.suffix != ".safetensors":
        raise ValueError(f"train: output is {output}; a name that ends in .safetensors is needed")
    given = {"variant": variant, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    recipe = digits_module.Recipe(**{k: v for k, v in given.items() if v is not None}, seed=seed)  # type: ignore[arg-type]
    output.parent.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is known before training
    data = digits_module.load_digits()
    model, seconds = demo.train_with_progress(data, recipe, console)
    counts = digits_module.confusion(model, data.held_out_images, data.held_out_labels)
    demo.save_weights(model, output)
    right, of = int(counts.diag().sum()), int(counts.sum())
    console.print(
        f"{right} of {of} held-out digits read right ({digits_module.accuracy(counts):.2%}), "
        f"{seconds:.0f} s of training"
    )
    console.print(f"weights: {output}", soft_wrap=True)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    )


def folder(console: Console, folder: Path, output: Path | None, restart: bool, **options: Any) -> None:
    """Trains on a folder, with a bar an epoch, and says where the files are."""
    output = output or Path("run")
    say = lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)  # noqa: E731
    with _bar(console) as bar:
        task = bar.add_task("", total=None)

        def progress(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of)

        history = run.train(folder, output, Settings(**options), say, progress, restart=restart)
    best = max(history, key=lambda row: row["top1"])
    say(f"best: top-1 {best['top1']:.2%}, top-5 {best['top5']:.2%}, after epoch {best['epoch']}; in {output}/")


def evaluate_folder(
    console: Console, folder: Path, weights: list[Path], settings: Settings, crops: str, scales: str,
    output: Path | None,
) -> None:  # fmt: skip
    """Prints top-1 and top-5, and the pictures that could not be read."""
    try:
        sizes = [int(text) for text in scales.split(",") if text]
    except ValueError:
        raise ValueError(f"evaluate: scales is {scales!r}; whole numbers with commas are needed") from None
    say = lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)  # noqa: E731
    with _bar(console) as bar:
        task = bar.add_task("pictures", total=None)
        verdict, classes = evaluate.evaluate(
            folder, weights, settings, crops=crops, scales=sizes, on_batch=lambda count: bar.advance(task, count)
        )
    for path, reason in verdict.damaged:
        say(f"skipped {path}: {reason}")
    if not verdict.pictures:
        raise ValueError(f"evaluate: no picture of {folder} could be read")
    say(f"{verdict.pictures} pictures, {len(verdict.damaged)} skipped")
    say(f"top-1 {verdict.top1_accuracy:.2%}, top-5 {verdict.top5_accuracy:.2%}")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for made in plots.draw_confusion(output, verdict.counts, classes):
            say(f"confusion matrix: {made}")
