"""What a training run is asked for: `python -m fastcnn train FOLDER` makes one of its options."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

SCHEDULES = ("cosine", "step", "plateau")
OPTIMIZERS = ("sgd", "adamw")
CROPS = ("resized", "jitter", "none")


@dataclass(frozen=True)
class Settings:
    """One run. Everything random follows from `seed`: the same settings give the same bits.

    model, variant: as `fastcnn.models.get_model` takes them.
    size: side of the network's input in pixels; 0: 32 for LeNet-5 and the CIFAR networks, else 224.
    crop: "resized", a random part of 8 to 100 % of the picture (GoogLeNet); "jitter", the shorter side brought to a
        random length, 256/224 to 512/224 of the size, then a random square (VGG); or "none".
    pca: standard deviation of AlexNet's change of lighting along the colours' principal axes; 0: none.
    schedule: "cosine" to 0; "step", a tenth every `step_epochs`; "plateau", a tenth after each `patience` epochs
        without a better accuracy (AlexNet). The first `warmup_epochs` rise from 0.
    weight_decay: not of biases and normalisations.
    ema: decay a step of the weights' moving average, which is then what is evaluated and kept as the best; 0: none.
    bf16: forward in bfloat16 where PyTorch's autocast takes it.
    held_out: share of each class that is set aside where FOLDER has no folders train and val.
    """

    model: str = "resnet18"
    variant: str | None = None
    size: int = 0
    epochs: int = 30
    batch_size: int = 64
    optimizer: str = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    step_epochs: int = 10
    patience: int = 5
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    crop: str = "resized"
    flip: bool = True
    colour: float = 0.0
    pca: float = 0.0
    ema: float = 0.0
    bf16: bool = False
    held_out: float = 0.1
    workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "step_epochs": 1, "patience": 1, "size": 0, "workers": 0, "seed": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"train: {name} is {getattr(self, name)}; at least {minimum} is needed")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"train: learning_rate is {self.learning_rate}; a positive number is needed")
        for name in ("momentum", "label_smoothing", "ema", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train: {name} is {getattr(self, name)}; from 0 up to below 1 is allowed")
        for name in ("weight_decay", "warmup_epochs", "colour", "pca"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"train: {name} is {getattr(self, name)}; 0 or a positive number is needed")
        for name, allowed in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS), ("crop", CROPS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"train: unknown {name} {getattr(self, name)!r}; allowed: {', '.join(allowed)}")

    @property
    def side(self) -> int:
        small = self.model == "lenet5" or self.model.endswith("_cifar")
        return self.size or (32 if small else 224)

    @property
    def grey(self) -> bool:
        return self.model == "lenet5"

    def difference(self, other: dict[str, Any]) -> str:
        """In words, where `other`, the settings of a checkpoint, differs; "" if a run may go on from there.

        The number of workers has no part in the result.
        """
        mine = asdict(self)
        different = [f.name for f in fields(self) if f.name != "workers" and mine[f.name] != other.get(f.name)]
        return ", ".join(f"{name} was {other.get(name)!r}, is {mine[name]!r}" for name in different)
