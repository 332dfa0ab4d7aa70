"""The command line: python -m fastcnn COMMAND."""

from __future__ import annotations

import contextlib
import csv
import enum
import importlib.util
import json as json_module
import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from fastcnn.core import ledger, native
from fastcnn.core.selector import SELECTORS
from fastcnn.core.version import VERSION

app = typer.Typer(
    name="fastcnn",
    no_args_is_help=True,
    help="Hand-written kernels for convolutional networks in PyTorch.",
    epilog="Exit codes: 0 done; 1 wrong input, or a result that is wrong; 2 wrong arguments; 130 interrupted.",
)
# Into a file or a pipe, tables are as wide as they need to be.
console = Console(width=None if sys.stdout.isatty() else 200)


class Format(str, enum.Enum):
    """How a command prints its result."""

    table = "table"
    json = "json"
    csv = "csv"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(VERSION)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print fastcnn's version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


@app.command()
def info() -> None:
    """Versions, build facts, CPU instruction set, GPUs, and which kernels can run here."""
    table = Table(show_header=False, box=None)
    build = native.extension.build_info() if native.unavailable is None else {}
    gpus = [
        f"{p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB"
        for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    ]
    for name, value in (
        ("fastcnn", VERSION),
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"),
        ("native extension", native.unavailable or f"built by {build['compiler']}"),
        ("CPU instruction set", native.extension.cpu.isa() if native.unavailable is None else "none"),
        ("CPU threads", str(torch.get_num_threads())),
        ("CUDA kernels", build.get("cuda", "none")),
        ("GPUs", "; ".join(gpus) or "none visible"),
    ):
        table.add_row(name, value)
    console.print(_folded(table))
    _print_kernels()


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="The folder for pictures, weights and results.json.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training digits.")] = 40,
    seconds: Annotated[float, typer.Option(min=0, help="Time spent on timing each network.")] = 8.0,
) -> None:
    """LeNet-5 learns to read; five networks run through PyTorch and fastcnn; pictures show both."""
    from fastcnn.workbench import demo, train

    with _reported("demo"):
        demo.run(output, recipe=train.Recipe(epochs=epochs), seconds=seconds)


@app.command()
def train(
    folder: Annotated[
        Path | None, typer.Argument(help="One folder of pictures a class, or train/ and val/ with such. None: digits.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="A folder for the run; for digits a .safetensors file.")] = None,
    model: Annotated[
        str, typer.Option(help="With FOLDER: resnet18, vgg16, googlenet, alexnet, lenet5, ...")
    ] = "resnet18",
    variant: Annotated[str | None, typer.Option(help="The network's variant; digits: paper or modern.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the pictures; 30, digits 40.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures a step and process; 64, digits 32.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its highest; 0.05, digits 0.003.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the first weights, the order and the distortions.")] = 0,
    size: Annotated[int, typer.Option(min=0, help="Side of the input in pixels; the network's own if 0.")] = 0,
    optimizer: Annotated[str, typer.Option(help="sgd (with Nesterov's momentum) or adamw.")] = "sgd",
    momentum: Annotated[float, typer.Option(help="Of sgd.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="Not of biases and normalisations.")] = 5e-4,
    schedule: Annotated[str, typer.Option(help="cosine, step or plateau (a tenth each time).")] = "cosine",
    step_epochs: Annotated[int, typer.Option(min=1, help="Epochs between two steps of --schedule step.")] = 10,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a better accuracy: a plateau.")] = 5,
    warmup_epochs: Annotated[float, typer.Option(help="Epochs over which the learning rate rises from 0.")] = 0.0,
    label_smoothing: Annotated[float, typer.Option(help="Share of the target given to all classes.")] = 0.0,
    crop: Annotated[str, typer.Option(help="resized (a random part), jitter (VGG's scales) or none.")] = "resized",
    flip: Annotated[bool, typer.Option(help="Mirror every second picture.")] = True,
    colour: Annotated[float, typer.Option(help="Change brightness, contrast, saturation by up to this share.")] = 0.0,
    pca: Annotated[float, typer.Option(help="AlexNet's change of lighting; the paper has 0.1.")] = 0.0,
    ema: Annotated[float, typer.Option(help="Decay a step of the weights' moving average; none if 0.")] = 0.0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Forward in bfloat16, by autocast.")] = False,
    held_out: Annotated[float, typer.Option(help="Share of each class held out where there is no val/.")] = 0.1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode pictures.")] = 2,
    restart: Annotated[bool, typer.Option(help="Go on from the checkpoint in the output folder.")] = True,
) -> None:
    """Trains a network on a folder of pictures, or LeNet-5 on scikit-learn's handwritten digits if none is named.

    A run that was killed goes on from its last epoch with the bits it would have had. Several processes:
    torchrun --nproc-per-node 2 -m fastcnn train FOLDER.
    """
    from fastcnn.workbench.train import command

    with _reported("train"):
        if folder is None:
            command.digits(console, output, variant, epochs, batch_size, learning_rate, seed)
        else:
            command.folder(
                console, folder, output, restart,
                model=model, variant=variant, size=size, epochs=epochs or 30, batch_size=batch_size or 64,
                optimizer=optimizer, learning_rate=0.05 if learning_rate is None else learning_rate, momentum=momentum,
                weight_decay=weight_decay, schedule=schedule, step_epochs=step_epochs, patience=patience,
                warmup_epochs=warmup_epochs, label_smoothing=label_smoothing, crop=crop, flip=flip, colour=colour,
                pca=pca, ema=ema, bf16=bf16, held_out=held_out, workers=workers, seed=seed,
            )  # fmt: skip


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="One folder of pictures a class, or a folder with val/ in it.")],
    model: Annotated[str, typer.Option(help="A network: resnet18, vgg16, googlenet, alexnet, lenet5, ...")],
    weights: Annotated[list[Path], typer.Option(help="A file; given several times, their networks are averaged.")],
    variant: Annotated[str | None, typer.Option(help="The network's variant, if not its default.")] = None,
    size: Annotated[int, typer.Option(min=0, help="Side of the input in pixels; the network's own if 0.")] = 0,
    crops: Annotated[str, typer.Option(help="1 (the middle), 10 (AlexNet's) or dense (VGG's).")] = "1",
    scales: Annotated[str, typer.Option(help="With dense: lengths of the shorter side, averaged: 256,288.")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode pictures.")] = 2,
    output: Annotated[Path | None, typer.Option(help="Draw the confusion matrix into this folder.")] = None,
) -> None:
    """Top-1 and top-5 accuracy of your weights on a folder of pictures."""
    from fastcnn.workbench.train import command, evaluate

    with _reported("evaluate"):
        settings = evaluate.settings_for(model, variant, size, batch_size, workers)
        command.evaluate_folder(console, folder, weights, settings, crops, scales, output)


@app.command()
def classify(
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Files that Pillow reads, folders of them, - for standard input."),
    ],
    model: Annotated[str, typer.Option(help="A network: resnet50, vgg16, googlenet, alexnet, lenet5, ...")],
    weights: Annotated[Path, typer.Option(help="A .safetensors, .pth, .pt or .bin file that fits the network.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    variant: Annotated[str | None, typer.Option(help="The network's variant, if not its default.")] = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="The network's classes, if not its default.")] = None,
    format: Annotated[Format, typer.Option(help="A table for people, JSON or CSV for programs.")] = Format.table,
) -> None:
    """The likeliest classes of pictures, by your weights. A picture that fails does not keep the others from theirs."""
    from fastcnn.workbench import classify

    with _reported("classify"):
        files = classify.find_pictures([name for name in pictures if name != "-"])
        sources: list[Any] = [*files, *([sys.stdin.buffer] if "-" in pictures else [])]
        classifier = classify.Classifier(model, weights, variant=variant, num_classes=num_classes)
        outcomes = [(_name(source), _outcome(classifier, source, top)) for source in sources]
    if format is Format.table:
        console.print(str(classifier.network.load_report), soft_wrap=True, highlight=False)
    _print_classifications(outcomes, format)
    if any(isinstance(outcome, ValueError) for _, outcome in outcomes):
        raise typer.Exit(1)


def _name(source: Any) -> str:
    return str(source) if isinstance(source, Path) else "<stdin>"


def _outcome(classifier: Any, source: Any, top: int) -> Any:
    """A Classification, or the error that this picture ended in."""
    try:
        return classifier(source, top)
    except ValueError as error:
        print(f"fastcnn classify: {error}", file=sys.stderr)
        return error


def _print_classifications(outcomes: list[tuple[str, Any]], format: Format) -> None:
    good = [(name, outcome) for name, outcome in outcomes if not isinstance(outcome, ValueError)]
    if format is Format.json:
        rows: list[dict[str, Any]] = []
        for name, outcome in outcomes:
            if isinstance(outcome, ValueError):
                rows.append({"picture": name, "error": str(outcome)})
            else:
                guesses = [guess._asdict() for guess in outcome.guesses]
                rows.append({"picture": name, "measure": outcome.measure, "guesses": guesses})
        print(json_module.dumps(rows, indent=2))
    elif format is Format.csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(("picture", "rank", "number", "name", "score"))
        for name, outcome in good:
            writer.writerows((name, rank, *guess) for rank, guess in enumerate(outcome.guesses, 1))
    else:
        for name, outcome in good:
            table = Table("class", outcome.measure, box=None, title=name if len(outcomes) > 1 else None)
            table.title_justify = "left"
            for guess in outcome.guesses:
                table.add_row(guess.name, f"{guess.score:.4g}")
            console.print(_folded(table))
        if good and good[-1][1].note:
            console.print(good[-1][1].note)


@app.command()
def kernels(
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the Triton kernels, without a GPU.")] = False,
    every: Annotated[bool, typer.Option("--every", help="With --compile: every configuration.")] = False,
    only: Annotated[str, typer.Option("--only", help="With --compile: kernels whose name has this text.")] = "",
    arch: Annotated[list[int] | None, typer.Option("--arch", help="With --compile: 80, 90, 100 or 120.")] = None,
) -> None:
    """Every kernel: operator, backend, name, dtypes, architectures, how it was verified."""
    with _reported("kernels"):
        if compile:
            _print_compile_table(arch or [80, 90, 100], every, only)
        elif json:
            print(json_module.dumps(list_kernels(), indent=2))
        else:
            _print_kernels()


@app.command()
def bench(
    kinds: Annotated[
        str, typer.Option(help="What to time: network, classifier, op, overhead; several with commas.")
    ] = "network",
    networks: Annotated[str, typer.Option(help="Only these networks and their layers: lenet5,resnet50.")] = "",
    contenders: Annotated[str, typer.Option(help="Only these contenders: fastcnn,eager,compile.")] = "",
    match: Annotated[str, typer.Option(help="Only cases whose name holds this text: 'conv2d 3x3'.")] = "",
    batches: Annotated[str, typer.Option(help="These batches: 1,8.")] = "",
    seconds: Annotated[float, typer.Option(help="Time each contender of a case this long.")] = 0.0,
    memory: Annotated[bool, typer.Option("--memory", help="Measure the memory of networks, too.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda; cuda if there is one.")] = "",
    threads: Annotated[int, typer.Option(help="CPU threads; PyTorch's setting if 0.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Every batch and contender, longer: hours, not minutes.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write a result file: a name, or a folder.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Keep the other cases of the result file.")] = False,
) -> None:
    """Times a part of the suite against PyTorch and the installed peers, after checking every result."""
    from fastcnn.workbench.report import commands

    with _reported("bench"):
        commands.bench(
            console, kinds=kinds.split(","), networks=networks, contenders=contenders, match=match, batches=batches,
            device=device, quick=not full, seconds_each=seconds, memory=memory, threads=threads, output=output,
            update=update,
        )  # fmt: skip


@app.command()
def report(
    results: Annotated[list[Path] | None, typer.Argument(help="Result files, one a device; all of results/.")] = None,
    against: Annotated[Path | None, typer.Option(help="An older result file: show what got slower.")] = None,
    output: Annotated[Path, typer.Option(help="The folder of the page and its plots.")] = Path("report"),
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help="Only fill in the figures of README.md and docs/ from results/.")
    ] = False,
) -> None:
    """Turns result files into one HTML page and plots, or fills in the documentation's figures."""
    from fastcnn.workbench.report import commands, docs

    with _reported("report"):
        if write_docs:
            for changed in docs.write(Path.cwd()):
                console.print(str(changed))
            return
        files = results or sorted(Path("results").glob("*.json"))
        commands.report(console, files, against, output)


@app.command()
def claims(
    only: Annotated[str, typer.Option(help="Only these claims: 1,4.")] = "",
    output: Annotated[
        Path | None, typer.Option(help="Write a file (a name, or a folder); claims not measured now stay in it.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Time each contender of a row this long.")] = 0.5,
) -> None:
    """Measures eight claims of the networks' papers and says which hold here."""
    from fastcnn.workbench.claims import command

    with _reported("claims"):
        command.run(console, only=only, seconds=seconds, output=output)


@app.command()
def tune(
    networks: Annotated[str, typer.Option(help="The layers of these networks; with commas.")] = "",
    batches: Annotated[str, typer.Option(help="At these batches: 1,8.")] = "1,8",
    seconds: Annotated[float, typer.Option(min=0.01, help="Time each candidate of a layer this long.")] = 0.1,
    device: Annotated[str, typer.Option(help="cpu or cuda; cuda if there is one.")] = "",
    dtypes: Annotated[str, typer.Option(help="GPU: in these of float32,tf32,float16,bfloat16.")] = "",
    backends: Annotated[str, typer.Option(help="GPU: the kernels of cuda, triton or both.")] = "cuda,triton",
    most: Annotated[int, typer.Option(min=0, help="GPU: time only so many, the cost model's first; all if 0.")] = 0,
    output: Annotated[Path | None, typer.Option(help="GPU: the file to write, or a folder; the user's cache.")] = None,
    minutes: Annotated[float, typer.Option(help="GPU: no layer is begun after these; the same command goes on.")] = 30,
    again: Annotated[bool, typer.Option(help="GPU: also the layers that the file has already.")] = False,
) -> None:
    """Times every candidate of every layer: on a GPU the fastest is remembered, on a CPU the rule is checked."""
    from fastcnn.workbench.report import commands, suite, timing
    from fastcnn.workbench.tune import gpu as tune_gpu
    from fastcnn.workbench.tune import rules as tune

    with _reported("tune"):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # On a GPU the five networks' layers are enough: in each, dozens of candidates are compiled.
        names = suite.plan(device, quick=device == "cuda", networks=commands.split(networks)).selection.networks
        sizes = [commands.batch(size) for size in commands.split(batches)]
        effort = replace(timing.QUICK, seconds=seconds)
        if device == "cuda":
            tune_gpu.run(
                console, names, sizes, replace(effort, pause=0.0),
                dtypes=commands.split(dtypes) or tune_gpu.DTYPES, backends=commands.split(backends),
                output=output, most=most, minutes=minutes, again=again,
            )  # fmt: skip
        elif output is not None or dtypes or most:
            raise ValueError("tune: --output, --dtypes and --most are a GPU's; on a CPU a rule chooses, and is checked")
        else:
            tune.run(console, names, sizes, effort)


@contextlib.contextmanager
def _reported(name: str) -> Iterator[None]:
    """Ends the command `name` with its name and the message alone where the user's input, or a result, was wrong."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"fastcnn {name}: interrupted", file=sys.stderr)
        raise typer.Exit(130) from None
    except (ValueError, AssertionError, ImportError, OSError) as error:
        # What commands share names one of them: "train: ..." of a folder that evaluate reads.
        command, _, message = str(error).partition(": ")
        commands = [each.name or getattr(each.callback, "__name__", "") for each in app.registered_commands]
        print(f"fastcnn {name}: {message if command in commands else error}", file=sys.stderr)
        raise typer.Exit(1) from None


def _print_compile_table(archs: list[int], every: bool, only: str) -> None:
    """What the compiler made of each Triton kernel: registers, shared memory, instructions, occupancy."""
    if importlib.util.find_spec("triton") is None:
        raise ImportError("--compile: triton is not installed")
    from fastcnn.workbench.verify import triton_sweep

    rows = triton_sweep.compile_table(archs, every=every, only=only)
    if not rows:
        raise ValueError(f"--only: no Triton kernel's name holds {only!r}")
    table = Table(*triton_sweep.COLUMNS, title="Triton kernels, compiled, not run", title_justify="left")
    for row in triton_sweep.table_rows(rows):
        table.add_row(*row)
    Console(width=max(180, console.width)).print(table)
    failed = sum(row.facts is None for row in rows)
    spilled = sum(row.facts is not None and row.facts.stack_bytes > 0 for row in rows)
    console.print(f"{len(rows)} kernels, {failed} did not compile, {spilled} spill registers")


def list_kernels() -> list[dict[str, Any]]:
    """Every candidate of every operator, as data."""
    listed: list[dict[str, Any]] = []
    for operator in SELECTORS.values():
        for candidate in operator.candidates:
            name = f"{operator.name}.{candidate.backend}.{candidate.name}"
            on_gpu = candidate.backend in ("cuda", "triton")
            listed.append(
                {
                    "op": operator.name,
                    "backend": candidate.backend,
                    "name": candidate.name,
                    "dtypes": list(candidate.dtypes),
                    "architectures": list(candidate.architectures) if on_gpu else [platform.machine()],
                    "verified": ledger.status(name) if on_gpu else "by the test suite, on the CPU",
                }
            )
    return listed


@app.command()
def verify(
    output: Annotated[Path, typer.Option(help="The ledger to write; the user's own unless given.")] = ledger.USER_PATH,
    only: Annotated[str, typer.Option(help="Only kernels whose name holds this text: conv2d.cuda.")] = "",
    backends: Annotated[str, typer.Option(help="Comma-separated: cuda, triton.")] = "cuda,triton",
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once; timings are made by one alone.")] = 4,
    seconds: Annotated[float, typer.Option(help="For one plan, compiling included, before it counts as hanging.")] = 60,
    minutes: Annotated[float, typer.Option(help="Nothing new is begun after these; the same command goes on.")] = 60,
    races: Annotated[bool, typer.Option(help="Time what is right beside PyTorch's operators.")] = True,
    again: Annotated[bool, typer.Option(help="Also what the ledger has already.")] = False,
) -> None:
    """Runs every GPU kernel on this machine's GPU against float64, times what is right beside PyTorch's own operators,
    and enters both into the hardware ledger: there the kernels that won are chosen from then on. About 5 minutes."""
    from fastcnn.workbench.verify import kernels as verification

    with _reported("verify"):
        if not torch.cuda.is_available():
            raise ValueError("no GPU is visible; GPU kernels stay not yet run on hardware")
        options = verification.Options(
            backends=tuple(backends.split(",")), only=only, again=again, jobs=jobs, seconds=seconds, minutes=minutes,
            races=races,
        )  # fmt: skip
        report = verification.verify(output, options, lambda line: console.print(line, highlight=False, markup=False))
        for line in [*verification.summary(report), f"written to {output}"]:
            console.print(line, highlight=False, markup=False)
    raise typer.Exit(1 if report.failed or report.lost_races else 0)


def _print_kernels() -> None:
    table = Table("op", "backend", "kernel", "dtypes", "verified", title="Kernels", title_justify="left")
    for row in list_kernels():
        table.add_row(row["op"], row["backend"], row["name"], ", ".join(row["dtypes"]), row["verified"])
    console.print(_folded(table))


def _folded(table: Table) -> Table:
    """In a narrow terminal, cells go on in the next line; rich would cut them."""
    for column in table.columns:
        column.overflow = "fold"
    return table


def main() -> None:
    """The entry point of the `fastcnn` command."""
    app(prog_name="fastcnn")


if __name__ == "__main__":
    main()
