"""Optimiser and learning rate of a run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from fastcnn.workbench.train.settings import Settings


def optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, or AdamW; weight decay on weights of two dimensions and more alone.

    PyTorch's fused kernels: one pass over weight, gradient and momentum.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    nesterov = settings.momentum > 0
    return torch.optim.SGD(groups, settings.learning_rate, settings.momentum, nesterov=nesterov, fused=True)


class Schedule:
    """The learning rate at each step; `epoch_ends` is told the accuracy, for the plateau."""

    def __init__(self, settings: Settings, steps_an_epoch: int) -> None:
        self.settings, self.steps_an_epoch = settings, max(1, steps_an_epoch)
        self.factor, self.best, self.waited = 1.0, -1.0, 0

    def rate(self, step: int) -> float:
        s, epoch = self.settings, step / self.steps_an_epoch
        if epoch < s.warmup_epochs:
            return s.learning_rate * (step + 1) / (s.warmup_epochs * self.steps_an_epoch + 1)
        if s.schedule == "cosine":
            done = (epoch - s.warmup_epochs) / max(s.epochs - s.warmup_epochs, 1e-9)
            return s.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        if s.schedule == "step":
            return s.learning_rate * 0.1 ** (int(epoch) // s.step_epochs)
        return s.learning_rate * self.factor

    def epoch_ends(self, accuracy: float) -> None:
        if accuracy > self.best:
            self.best, self.waited = accuracy, 0
            return
        self.waited += 1
        if self.waited >= self.settings.patience:
            self.factor, self.waited = self.factor * 0.1, 0

    def state(self) -> tuple[float, float, int]:
        return self.factor, self.best, self.waited

    def restore(self, state: tuple[float, float, int]) -> None:
        self.factor, self.best, self.waited = state
