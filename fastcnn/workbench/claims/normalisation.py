"""Claim 4: what local response normalisation costs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional
from torch import nn

from fastcnn import functional
from fastcnn.models import get_model
from fastcnn.nn import LocalResponseNorm
from fastcnn.workbench.claims.common import ENGINES, Claim, Found, Part, Progress, Row, Tables, compare, timed
from fastcnn.workbench.demo import randomise
from fastcnn.workbench.report import memory
from fastcnn.workbench.report.plain import plain
from fastcnn.workbench.report.timing import Effort

NETWORKS = (("alexnet", "paper"), ("googlenet", "paper"), ("vgg11", "A-LRN"))
LAYERS = (("AlexNet, norm1", 96, 55), ("AlexNet, norm2", 256, 27), ("GoogLeNet, norm2", 192, 56),
          ("VGG A-LRN", 64, 224))  # fmt: skip
BATCH = 4
# A network must take longer by more than this for the cost to count: less is within what a run varies.
NOTICEABLE = 1.02
NETS = f"networks with their normalisation and without, batch {BATCH}"
SINGLE = f"the layer alone, batch {BATCH}"


def build(name: str, variant: str, normalised: bool) -> nn.Module:
    """The network, in evaluation mode; without normalisation, identities stand in its place."""
    arguments: dict[str, Any] = {"aux_logits": False} if name == "googlenet" else {}
    model = randomise(get_model(name, variant=variant, **arguments).eval(), seed=0)
    if not normalised:
        for path, module in list(model.named_modules()):
            if isinstance(module, LocalResponseNorm):
                owner, _, child = path.rpartition(".")
                setattr(model.get_submodule(owner), child, nn.Identity())
    return model


def kept_for_backward(model: nn.Module, input: torch.Tensor) -> int:
    """Bytes of activations that a forward pass keeps for the backward pass; parameters do not count."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input)
    return sum(kept.values())


def measure(effort: Effort, progress: Progress) -> Found:
    nets: list[Row] = []
    for name, variant in NETWORKS:
        progress(f"{name}, {variant}")
        models = {key: build(name, variant, key == "with") for key in ("with", "without")}
        torch.manual_seed(0)
        input = torch.randn(BATCH, 3, 224, 224)
        times = compare(models, input, effort)
        for engine in ENGINES:
            kept = {}
            for key, model in models.items():
                module = model if engine == "fastcnn" else plain(model)
                kept[key] = kept_for_backward(module, input[:1].contiguous(memory_format=torch.channels_last)) / 2**20
            nets.append(
                {
                    "network": f"{name}, {variant}",
                    "engine": engine,
                    "with, ms": times[engine]["with"],
                    "without, ms": times[engine]["without"],
                    "time, ratio": times[engine]["with"]["ms"] / times[engine]["without"]["ms"],
                    "kept for training with, MiB a picture": kept["with"],
                    "without, MiB": kept["without"],
                    "memory, ratio": kept["with"] / kept["without"],
                }
            )
    return Found({NETS: nets, SINGLE: [_layer(*layer, effort, progress) for layer in LAYERS]})


def _layer(name: str, channels: int, side: int, effort: Effort, progress: Progress) -> Row:
    progress(name)
    torch.manual_seed(0)
    x = torch.randn(BATCH, channels, side, side).contiguous(memory_format=torch.channels_last)
    runs = {
        "fastcnn": lambda: functional.local_response_norm(x, 5, 1e-4, 0.75, 2.0),
        "PyTorch": lambda: torch.nn.functional.local_response_norm(x, 5, 1e-4, 0.75, 2.0),
    }
    with torch.inference_mode():
        truth = torch.nn.functional.local_response_norm(x.double(), 5, 1e-4, 0.75, 2.0)
        times = timed(runs, dict.fromkeys(runs, truth), effort)
        held = {engine: memory.during(run) for engine, run in runs.items()}
    row: Row = {"layer": name, "C": channels, "picture": f"{side}x{side}"}
    row |= {f"{engine}, ms": times[engine] for engine in ENGINES}
    row["PyTorch / fastcnn"] = times["PyTorch"]["ms"] / times["fastcnn"]["ms"]
    size = x.numel() * x.element_size()
    for engine in ENGINES:
        peak = held[engine]
        row[f"{engine}, memory in outputs"] = None if peak is None else peak / size
    return row


def judge(tables: Tables) -> list[Part]:
    parts = []
    for engine in ENGINES:
        rows = [row for row in tables[NETS] if row["engine"] == engine]
        for what, words, asked in (("time", "time", NOTICEABLE), ("memory", "memory kept for training", 1.0)):
            each = ", ".join(f"{row['network']} {row[f'{what}, ratio'] - 1:+.0%}" for row in rows)
            parts.append(
                Part(
                    all(row[f"{what}, ratio"] > asked for row in rows),
                    f"{engine}: what normalisation adds to the {words}: "
                    f"{each} (asked: more than {asked - 1:.0%} in every network)",
                )
            )
    return parts


CLAIM = Claim(
    number=4,
    title="Local response normalisation costs time and memory",
    sentence="In VGG, local response normalisation does not improve the accuracy, but leads to increased memory "
    "consumption and computation time. (AlexNet's paper, section 3.3: it lowers the top-1 error by 1.4 points.)",
    source="Simonyan, Zisserman 2014, section 2.1",
    measured="Time of inference, and bytes that a forward pass keeps for training, with the normalisation and with "
    "identities in its place; then the layer alone, and the memory that a call holds at its peak, in multiples of the "
    "layer's output. What it does for accuracy is not measured: that takes ImageNet.",
    measure=measure,
    judge=judge,
)
