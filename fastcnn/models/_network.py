"""What every network of this package answers to beside `forward`: its head, its features, its first layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fastcnn import nn
from fastcnn.models._weights import LoadReport, State


class Network(torch.nn.Module):
    """A chain of layers that ends in a head, as timm's networks are used.

    A subclass names its last layer (`head`), splits `forward` into `forward_features` (to feature maps) and
    `forward_head` (to scores), and says at which layers its maps get smaller (`stages`).
    """

    head: str
    num_classes: int
    variant: str
    load_report: LoadReport | None = None  # of the file that create_model filled the network from

    def adapt_state_dict(self, state: State) -> State:
        """A file's tensors under this network's names and shapes, where another library's are known to differ."""
        return state

    def forward_features(self, input: Tensor) -> Tensor:
        """The feature maps before the head: (N, C, H', W')."""
        raise NotImplementedError

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Scores (N, num_classes) of feature maps; with `pre_logits` what the last layer would read."""
        raise NotImplementedError

    def stages(self) -> list[list[torch.nn.Module]]:
        """The layers of `forward_features`, those that work at one resolution together."""
        raise NotImplementedError

    def get_classifier(self) -> torch.nn.Module:
        """The last layer: an Identity where num_classes is 0."""
        return self.get_submodule(self.head)

    @property
    def num_features(self) -> int:
        """How many numbers the last layer reads of a picture."""
        return cast(Any, self.get_classifier()).in_features

    def reset_classifier(self, num_classes: int) -> None:
        """Puts a new last layer, at random, in the place of the old; 0: none, the network returns what it read.

        Raises:
            ValueError: num_classes is negative.
        """
        if num_classes < 0:
            raise ValueError(f"reset_classifier: num_classes is {num_classes}, expected at least 0")
        width = self.num_features
        like = next(self.parameters())
        last = nn.Linear(width, num_classes, device=like.device, dtype=like.dtype) if num_classes else NoHead(width)
        parent, _, name = self.head.rpartition(".")
        setattr(self.get_submodule(parent), name, last)
        self.num_classes = num_classes

    def set_dropout(self, rate: float) -> None:
        """Sets the rate of the dropouts before the last layer, and of that alone which a network has not (ResNet).

        Raises:
            ValueError: the rate is outside 0 to 1, or the network has no place for dropout.
        """
        if not 0 <= rate < 1:
            raise ValueError(f"drop_rate is {rate}, expected at least 0 and below 1")
        dropouts = [m for name, m in self.named_modules() if isinstance(m, torch.nn.Dropout) and "aux" not in name]
        for dropout in dropouts:
            dropout.p = rate
        if hasattr(self, "drop_rate"):
            self.drop_rate = rate
        elif not dropouts:
            raise ValueError(f"drop_rate: {type(self).__name__} has no dropout")

    @torch.no_grad()
    def set_input_channels(self, channels: int) -> None:
        """Rebuilds the first convolution for pictures of so many channels, from the weights it has.

        One channel gets the sum of the weights, so that a grey picture is taken as one of equal colours; n
        channels get them in turn, times old / n, so that the sums keep their size.

        Raises:
            ValueError: channels is below 1.
        """
        if channels < 1:
            raise ValueError(f"in_chans is {channels}, expected at least 1")
        conv = first_convolution(self)
        old = conv.in_channels
        if channels == old:
            return
        weight = conv.weight.data
        if channels == 1:
            weight = weight.sum(1, keepdim=True)
        else:
            weight = weight.repeat(1, -(-channels // old), 1, 1)[:, :channels] * (old / channels)
        conv.in_channels = channels
        conv.weight = torch.nn.Parameter(weight, requires_grad=conv.weight.requires_grad)


class NoHead(torch.nn.Identity):
    """In the place of a last layer that was taken away; remembers how wide its input is."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.in_features = in_features


class FeatureNet(torch.nn.Module):
    """The feature maps of some stages of a network: (N, C, H, W) to a list of maps, the largest first.

    Made by ``create_model(name, features_only=True)``; it shares the layers of the network it was made from.

    Args:
        network: one of `fastcnn.models`.
        out_indices: which stages, counted from 0 at the highest resolution; negative from the last. All if None.

    Attributes:
        channels, reductions: of each map returned: its channels, and how many times smaller than the picture it is.

    Raises:
        ValueError: an index that the network has no stage for.
    """

    def __init__(self, network: Network, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        stages = network.stages()
        indices = range(len(stages)) if out_indices is None else out_indices
        for index in indices:
            if not -len(stages) <= index < len(stages):
                raise ValueError(f"out_indices: no stage {index}, {type(network).__name__} has {len(stages)}")
        self.out_indices = sorted(index % len(stages) for index in indices)
        self.stages = torch.nn.ModuleList(torch.nn.Sequential(*stage) for stage in stages[: self.out_indices[-1] + 1])
        self.train(network.training)
        side = 32 * 7
        input = torch.empty(1, first_convolution(network).in_channels, side, side, device="meta")
        weights = {name: torch.empty_like(value, device="meta") for name, value in self.state_dict().items()}
        with torch.no_grad():
            maps = torch.func.functional_call(self, weights, (input.to(next(network.parameters()).dtype),))
        self.channels = [map.shape[1] for map in maps]
        self.reductions = [round(side / map.shape[2]) for map in maps]

    def forward(self, input: Tensor) -> list[Tensor]:
        maps = []
        for index, stage in enumerate(self.stages):
            input = stage(input)
            if index in self.out_indices:
                maps.append(input)
        return maps


def first_convolution(network: torch.nn.Module) -> torch.nn.Conv2d:
    """The layer that reads the picture."""
    return next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))


def split_before(layers: torch.nn.Sequential, *pools: type[torch.nn.Module]) -> list[list[torch.nn.Module]]:
    """The layers in groups, each but the first beginning with a pool."""
    groups: list[list[torch.nn.Module]] = [[]]
    for layer in layers:
        if isinstance(layer, pools):
            groups.append([])
        groups[-1].append(layer)
    return groups
