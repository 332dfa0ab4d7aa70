"""One step of training (forward, loss, backward, SGD with momentum): fastcnn, eager PyTorch and torch.compile in turns.

    python benchmarks/training_step.py [--networks resnet18,lenet5] [--batch 8] [--compile] [--output results/training]

Networks in channels_last on both sides; PyTorch's fused SGD on both sides. The gradients of the first step are checked
against each other. Times are medians of rounds in which every contender takes its turn, with the quartiles.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fastcnn
from fastcnn.core import native
from fastcnn.core.files import rows_as_json, write_whole
from fastcnn.models import GoogLeNetOutputs, get_model, googlenet_loss
from fastcnn.workbench.report.plain import EAGER, _Tracer

NETWORKS = {"lenet5": 32, "alexnet": 227, "vgg11": 224, "googlenet": 224, "resnet18": 224, "resnet50": 224}


def eager(model: nn.Module) -> nn.Module:
    """A copy in training mode that calls PyTorch's operators where the original calls fastcnn's."""
    model = copy.deepcopy(model).train()
    graph = _Tracer().trace(model)
    for node in graph.nodes:
        if node.op == "call_function" and node.target in EAGER:
            node.target = EAGER[node.target]
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
    return fx.GraphModule(model, graph).train()


def loss_of(output: Any, labels: Tensor) -> Tensor:
    return googlenet_loss(output, labels) if isinstance(output, GoogLeNetOutputs) else F.cross_entropy(output, labels)


def stepper(model: Callable[[Tensor], Any], parameters: list[nn.Parameter], x: Tensor, labels: Tensor) -> Any:
    optimizer = torch.optim.SGD(parameters, 1e-3, momentum=0.9, weight_decay=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model(x), labels).backward()
        optimizer.step()

    return step


def contenders(name: str, batch: int, with_compile: bool) -> dict[str, Callable[[], None]]:
    """Each contender's step; dropout is off, so that their gradients can be compared."""
    torch.manual_seed(0)
    ours = get_model(name).to(memory_format=torch.channels_last).train()
    for module in ours.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    theirs = eager(ours)
    channels, side = (1, 32) if name == "lenet5" else (3, NETWORKS[name])
    x = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10 if name == "lenet5" else 1000, (batch,))
    models: dict[str, Any] = {"fastcnn": ours, "eager": theirs}
    if with_compile:
        models["compile"] = torch.compile(copy.deepcopy(theirs))
    gradients = {}
    for who, model in models.items():
        loss_of(model(x), labels).backward()
        named = ((name.removeprefix("_orig_mod."), p.grad) for name, p in model.named_parameters())
        gradients[who] = [grad.flatten() for _, grad in sorted(named, key=lambda pair: pair[0]) if grad is not None]
    reference = torch.cat(gradients["eager"])
    for who, found in gradients.items():
        error = (torch.cat(found) - reference).norm() / reference.norm()
        # ReLUs that rounding turns on or off: in a fresh ResNet-50 eager itself is 3 % from float64.
        if not error < 0.1:
            raise AssertionError(f"{name}: {who}'s gradients differ from eager's by {error:.2g}")
    return {
        who: stepper(model, [p for p in model.parameters() if p.requires_grad], x, labels)
        for who, model in models.items()
    }


def measure(name: str, batch: int, rounds: int, with_compile: bool) -> dict[str, Any]:
    steps = contenders(name, batch, with_compile)
    repeat = 5 if name == "lenet5" else 1
    times: dict[str, list[float]] = {who: [] for who in steps}
    for _ in range(2):
        for step in steps.values():
            step()
    for _ in range(rounds):
        for who, step in steps.items():
            begun = time.perf_counter()
            for _ in range(repeat):
                step()
            times[who].append((time.perf_counter() - begun) / repeat)
    row: dict[str, Any] = {"network": name, "batch": batch, "rounds": rounds, "seconds": {}}
    for who, seconds in times.items():
        low, median, high = statistics.quantiles(seconds, n=4)
        row["seconds"][who] = {"median": round(median, 6), "quartiles": [round(low, 6), round(high, 6)]}
    ratios = [e / f for e, f in zip(times["eager"], times["fastcnn"], strict=True)]
    row["eager over fastcnn"] = round(statistics.median(ratios), 3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--batch", type=int, default=8, help="LeNet-5 takes eight times as many")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--output", type=Path, help="a folder: rows of other networks in its file are kept")
    options = parser.parse_args()
    device = f"{os.uname().machine}, {native.extension.cpu.isa()}, {torch.get_num_threads()} threads"
    rows = []
    for name in options.networks.split(","):
        batch = options.batch * 8 if name == "lenet5" else options.batch
        rows.append(measure(name, batch, options.rounds, options.compile))
        print(json.dumps(rows[-1]), flush=True)
        write(options.output, device, rows)


def write(folder: Path | None, device: str, rows: list[dict[str, Any]]) -> None:
    """After each network, so that a run that is broken off keeps what it has."""
    if folder is not None:
        path = folder / "step.json"
        kept = json.loads(path.read_text())["rows"] if path.exists() else []
        done = {row["network"] for row in rows}
        rows = sorted(
            [*rows, *(r for r in kept if r["network"] not in done)], key=lambda r: list(NETWORKS).index(r["network"])
        )
        about = {"device": device, "torch": str(torch.__version__), "fastcnn": fastcnn.__version__}
        write_whole(path, rows_as_json({"about": about, "rows": rows}))


if __name__ == "__main__":
    sys.exit(main())
