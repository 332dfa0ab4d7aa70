"""A network trained on a folder of pictures: `python -m fastcnn train FOLDER`, alone or under torchrun.

OUTPUT/checkpoint.pt      what the run goes on from after a kill, with the bits it would have had; once an epoch
OUTPUT/last.safetensors, best.safetensors, classes.json
OUTPUT/history.json, curves.png, confusion.png
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fastcnn.models import get_model, googlenet_loss, map_loss
from fastcnn.models.googlenet import GoogLeNetOutputs
from fastcnn.models.lenet import LeNet5
from fastcnn.workbench.train import augment, files, judge, pictures
from fastcnn.workbench.train.plots import draw
from fastcnn.workbench.train.schedule import Schedule, optimizer
from fastcnn.workbench.train.settings import Settings

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]  # (what, done, of)


def build(settings: Settings, classes: int) -> nn.Module:
    """The network in channels_last, with the weights that the seed gives."""
    arguments = {} if settings.variant is None else {"variant": settings.variant}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = get_model(settings.model, num_classes=classes, **arguments)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def loss_of(model: nn.Module, output: Any, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy; with the auxiliary heads' for GoogLeNet; LeNet-5's own for the paper's variant."""
    if isinstance(output, GoogLeNetOutputs):
        return googlenet_loss(output, labels)
    if isinstance(model, LeNet5) and model.variant == "paper":
        return map_loss(output, labels)
    return F.cross_entropy(output, labels, label_smoothing=smoothing)


class Run:
    """One process of a run; under torchrun there are several, and the first one writes."""

    def __init__(self, folder: Path, output: Path, settings: Settings, say: Say, progress: Progress | None) -> None:
        self.settings, self.output, self.say, self.progress = settings, output, say, progress
        self.rank, self.processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.training, self.validation = pictures.split(folder, settings)
        axes = augment.principal_axes(self.training) if settings.pca and not settings.grey else None
        self.pictures = pictures.Pictures(self.training, augment.training(settings, axes), settings)
        self.model = build(settings, len(self.training.classes))
        self.optimizer = optimizer(self.model, settings)
        share = math.ceil(len(self.training.files) / self.processes)
        self.schedule = Schedule(settings, math.ceil(share / settings.batch_size))
        average = get_ema_multi_avg_fn(settings.ema)
        self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True) if settings.ema else None
        self.history: list[dict[str, float]] = []
        self.named: set[Path] = set()
        self.step = 0
        self.trained: nn.Module = self.model
        if self.processes > 1:
            self.trained = nn.parallel.DistributedDataParallel(self.model)

    # ---- state -----------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        return self.output / "checkpoint.pt"

    def state(self) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings),
            "classes": self.training.classes,
            "files": len(self.training.files),
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "history": self.history,
            "step": self.step,
        }

    def restore(self) -> None:
        """Goes on from the output folder's checkpoint. Raises ValueError if it is that of another run."""
        state = files.load_checkpoint(self.checkpoint)
        difference = self.settings.difference(state["settings"])
        if not difference and state["classes"] != self.training.classes:
            difference = "the folder's classes are others"
        if not difference and state["files"] != len(self.training.files):
            difference = f"the folder had {state['files']} pictures to train on, has {len(self.training.files)}"
        if difference:
            raise ValueError(f"train: {self.checkpoint} is of another run ({difference}); give another --output")
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.restore(state["schedule"])
        self.history, self.step = state["history"], state["step"]

    # ---- the epochs ------------------------------------------------------------------------------------

    def train(self) -> None:
        for epoch in range(len(self.history), self.settings.epochs):
            begun = time.perf_counter()
            loss = self._train_epoch(epoch)
            judged: nn.Module = self.model if self.average is None else self.average.module
            verdict = self._judge(judged)
            self.schedule.epoch_ends(verdict.top1_accuracy)
            seconds = time.perf_counter() - begun
            best = max((row["top1"] for row in self.history), default=-1.0)
            self.history.append(
                {"epoch": epoch + 1, "loss": loss, "top1": verdict.top1_accuracy, "top5": verdict.top5_accuracy,
                 "learning_rate": self.schedule.rate(self.step - 1), "seconds": seconds}
            )  # fmt: skip
            if self.rank == 0:
                self._write(judged, verdict, better=verdict.top1_accuracy > best)
            left = seconds * (self.settings.epochs - epoch - 1)
            self.say(
                f"epoch {epoch + 1} of {self.settings.epochs}: loss {loss:.4f}, top-1 {verdict.top1_accuracy:.2%}, "
                f"top-5 {verdict.top5_accuracy:.2%}, {seconds:.0f} s, about {left / 60:.0f} min left"
            )

    def _judge(self, judged: nn.Module) -> judge.Verdict:
        """The first process's verdict, in all of them: their running statistics differ, and a plateau must not."""
        classes = len(self.training.classes)
        if self.rank == 0:
            verdict = judge.judge([judged.eval()], self.validation, self.settings)
        else:
            verdict = judge.Verdict(torch.zeros(classes, classes, dtype=torch.long), 0, [])
        if self.processes > 1:
            found = [verdict]
            dist.broadcast_object_list(found, src=0)
            (verdict,) = found
        self._name(verdict.damaged)
        return verdict

    def _train_epoch(self, epoch: int) -> float:
        """Returns the mean loss of the pictures."""
        s = self.settings
        # Dropout's draws follow from seed and epoch, so that a restart at an epoch's beginning repeats them.
        torch.manual_seed((s.seed * 1_000_003 + epoch) * 1_009 + self.rank)
        order = pictures.epoch_order(len(self.pictures), epoch, s, self.rank, self.processes)
        self.trained.train()
        total, seen = 0.0, 0
        for batch in pictures.batches(self.pictures, epoch, order, s.batch_size, s.workers):
            self._name(batch.damaged)
            loss = self._train_batch(batch)
            total, seen = total + loss * len(batch.labels), seen + len(batch.labels)
            if self.progress is not None:
                self.progress(f"epoch {epoch + 1}", seen, len(order))
        if not seen:
            raise ValueError("train: not one picture could be read")
        return total / seen

    def _train_batch(self, batch: pictures.Batch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self.step += 1
        images = batch.images
        if not len(batch.labels):
            if self.processes == 1:
                return 0.0
            # Every process takes part in every step, with a gradient of nothing if it has no picture.
            images = torch.zeros(2, 1 if self.settings.grey else 3, self.settings.side, self.settings.side)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bf16):
            output = self.trained(images)
        if len(batch.labels):
            loss = loss_of(self.model, _float(output), batch.labels, self.settings.label_smoothing)
        else:
            loss = 0.0 * (output if isinstance(output, Tensor) else output[0]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"train: the loss is {value} at step {self.step}; a lower learning rate may help")
        return value

    def _name(self, damaged: list[tuple[Path, str]]) -> None:
        for path, reason in damaged:
            if path not in self.named:
                self.named.add(path)
                self.say(f"skipped {path}: {reason} ({len(self.named)} skipped so far)")

    def _write(self, judged: nn.Module, verdict: judge.Verdict, better: bool) -> None:
        files.save_weights(self.output / "last.safetensors", judged.state_dict())
        if better:
            files.save_weights(self.output / "best.safetensors", judged.state_dict())
        files.save_json(self.output / "classes.json", self.training.classes)
        files.save_json(self.output / "history.json", self.history)
        files.save_checkpoint(self.checkpoint, self.state())
        draw(self.output, self.history, verdict.counts, self.training.classes)


def _float(output: Any) -> Any:
    """Losses are computed in float32."""
    return output.float() if isinstance(output, Tensor) else type(output)(*(o.float() for o in output))


def train(
    folder: Path, output: Path, settings: Settings, say: Say = print, progress: Progress | None = None,
    *, restart: bool = True,
) -> list[dict[str, float]]:  # fmt: skip
    """Trains on `folder` (one folder a class, or train/ and val/ with such) and returns the history, a row an epoch.

    A run whose checkpoint is in `output` goes on from it (restart=False begins anew). Under torchrun the processes
    share each epoch's pictures, and gradients are averaged over them.

    Raises ValueError for a folder without classes or pictures, settings out of range, a checkpoint of another run, or
    a loss that is no number; ImportError without torchvision; OSError if the output cannot be written.
    """
    if output.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"train: output is {output}, in the folder of pictures, where it would be a class")
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not alone and not dist.is_initialized():
        dist.init_process_group("gloo")
    output.mkdir(parents=True, exist_ok=True)
    run = Run(folder, output, settings, say if int(os.environ.get("RANK", "0")) == 0 else lambda line: None, progress)
    if restart and run.checkpoint.is_file():
        run.restore()
        run.say(f"goes on from {run.checkpoint}, after epoch {len(run.history)}")
    run.train()
    if not alone:
        dist.destroy_process_group()
    return run.history
