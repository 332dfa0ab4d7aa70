"""LeNet-5 in its paper form and in its modern form.

Source: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.
"""

import math
from collections import OrderedDict
from typing import cast

import torch
from torch.overrides import handle_torch_function, has_torch_function

import fastcnn.functional as F
from fastcnn import nn
from fastcnn.core.packing import kept
from fastcnn.models._arguments import check_num_classes, check_variant
from fastcnn.models._network import Network, split_before
from fastcnn.models._weights import PathLike, load_weights

VARIANTS = ("paper", "modern")
SQUASHINGS = ("scaled_tanh", "tanh", "sigmoid")

# Table I of the paper: the S2 maps that each of C3's sixteen maps reads.
C3_TABLE = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# One 7x12 picture a digit, '#' for +1 and '.' for -1: the targets of F6. The paper draws its own in figure 3.
DIGIT_BITMAPS = (
    """
    ..###..
    .#...#.
    #.....#
    #.....#
    #.....#
    #.....#
    #.....#
    #.....#
    #.....#
    .#...#.
    ..###..
    .......
    """,
    """
    ...##..
    ..###..
    .####..
    ...##..
    ...##..
    ...##..
    ...##..
    ...##..
    ...##..
    ...##..
    .######
    .......
    """,
    """
    .####..
    ##..##.
    #....##
    .....##
    ....##.
    ...##..
    ..##...
    .##....
    ##.....
    #.....#
    #######
    .......
    """,
    """
    #######
    #....##
    ....##.
    ...##..
    ..####.
    .....##
    ......#
    ......#
    #.....#
    ##...##
    .#####.
    .......
    """,
    """
    .....#.
    ....##.
    ...###.
    ..##.#.
    .##..#.
    ##...#.
    #######
    #######
    .....#.
    .....#.
    .....#.
    .......
    """,
    """
    .######
    .##....
    .##....
    .#####.
    .##..##
    ......#
    ......#
    ......#
    .#....#
    .##..##
    ..####.
    .......
    """,
    """
    ...####
    ..##...
    .##....
    ##.....
    ##.###.
    ###..##
    ##....#
    ##....#
    ##....#
    .##..##
    ..####.
    .......
    """,
    """
    #######
    ##...##
    #....##
    ....##.
    ....##.
    ...##..
    ...##..
    ..##...
    ..##...
    ..##...
    ..##...
    .......
    """,
    """
    .#####.
    ##...##
    #.....#
    ##...##
    .#####.
    .#####.
    ##...##
    #.....#
    #.....#
    ##...##
    .#####.
    .......
    """,
    """
    .#####.
    ##...##
    #.....#
    #.....#
    ##...##
    .######
    ......#
    .....##
    ....##.
    ..###..
    ###....
    .......
    """,
)


def digit_prototypes() -> torch.Tensor:
    """The ten digits' 7x12 bitmaps as the RBF units' centres: (10, 84), every value +1 or -1."""
    rows = ["".join(bitmap.split()) for bitmap in DIGIT_BITMAPS]
    return torch.tensor([[1.0 if pixel == "#" else -1.0 for pixel in row] for row in rows])


def right_class_loss(distances: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean penalty of the right class, equation 8 of the paper.

    E = 1/N * sum_n y[n, target[n]]

    Args:
        distances: (N, classes), the RBF units' outputs y.
        target: (N,), the index of each right class.
    """
    return _right_class(distances, target).mean()


def map_loss(distances: torch.Tensor, target: torch.Tensor, j: float = 20.0) -> torch.Tensor:
    """The maximum a posteriori criterion, equation 9 of the paper: wrong classes compete.

    E = 1/N * sum_n (y[n, target[n]] + log(exp(-j) + sum_i exp(-y[n, i])))

    Args:
        distances: (N, classes), the RBF units' outputs y.
        target: (N,), the index of each right class.
        j: a positive constant: a wrong class further away than about j is pushed no more.
    """
    right = _right_class(distances, target)
    if j <= 0:
        raise ValueError(f"map_loss: j is {j}, expected a positive number")
    rubbish = torch.full_like(right, -j).unsqueeze(1)
    return (right + torch.logsumexp(torch.cat([rubbish, -distances], dim=1), dim=1)).mean()


def _right_class(distances: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if distances.dim() != 2:
        raise ValueError(f"distances has shape {tuple(distances.shape)}, expected (N, classes)")
    if target.shape != distances.shape[:1]:
        raise ValueError(f"target has shape {tuple(target.shape)}, expected ({distances.shape[0]},)")
    if target.dtype != torch.int64:
        raise TypeError(f"target is {target.dtype}, expected torch.int64")
    return distances.gather(1, target.unsqueeze(1)).squeeze(1)


Table = tuple[tuple[int, ...], ...]


def _dense_weight(weight: torch.Tensor, table: Table, in_channels: int) -> torch.Tensor:
    if has_torch_function((weight,)):  # one node in a traced graph
        return handle_torch_function(_dense_weight, (weight,), weight, table, in_channels)
    kernel = weight.shape[1:]
    zeros = weight.new_zeros(len(table) * in_channels, *kernel)
    connections = [k * in_channels + c for k, maps in enumerate(table) for c in maps]
    # Not kept as a buffer: a net built on "meta" and given its weights would lack it.
    index = torch.tensor(connections, device=weight.device)
    return zeros.index_copy(0, index, weight).view(len(table), in_channels, *kernel)


class PartialConv2d(torch.nn.Module):
    """Convolution whose output maps each read only the input maps that a table names.

    y[n, k] = act(bias[k] + sum over c in table[k] of x[n, c] (*) weight[k, c])

    Only the connections in the table have weights. The kernel runs on the dense weight, zero elsewhere:
    at LeNet's size a full vector of channels costs less than picking some of them.

    Args:
        in_channels: number of input maps.
        table: for each output map, the indices of the input maps it reads.
        kernel_size: side of the square kernel.
        activation: None, "relu", "sigmoid", "tanh" or "scaled_tanh".

    Attributes:
        weight: (connections, kernel_size, kernel_size), in the table's order.
        bias: (output maps,).
    """

    def __init__(
        self,
        in_channels: int,
        table: Table,
        kernel_size: int,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.table, self.activation = in_channels, table, activation
        connections = sum(len(maps) for maps in table)
        self.weight = torch.nn.Parameter(torch.empty(connections, kernel_size, kernel_size))
        self.bias = torch.nn.Parameter(torch.zeros(len(table)))
        torch.nn.init.uniform_(self.weight, -1 / kernel_size, 1 / kernel_size)

    def extra_repr(self) -> str:
        kernel = self.weight.shape[-1]
        connections = f"connections={len(self.weight)}, kernel_size={kernel}, activation={self.activation!r}"
        return f"{self.in_channels}, {len(self.table)}, {connections}"

    def dense_weight(self) -> torch.Tensor:
        """The weight as (output maps, input maps, R, S), zero where the table has no connection."""
        return self._dense(self.weight)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        fresh = torch.is_grad_enabled() or has_torch_function((input, self.weight)) or torch.compiler.is_compiling()
        weight = None if fresh else kept((self.weight,), (self.table, self.in_channels), self._dense)
        return F.conv2d(input, self.dense_weight() if weight is None else weight, self.bias, activation=self.activation)

    def _dense(self, weight: torch.Tensor) -> torch.Tensor:
        return _dense_weight(weight, self.table, self.in_channels)


class LeNet5(Network):
    """LeNet-5: 1x32x32 grey pictures to one number a class.

    variant "paper": partially connected C3, trainable subsampling, a squashing function after every layer,
    and Euclidean RBF units, whose *smallest* output names the class. The paper scales pixels so that
    background is -0.1 and ink is 1.175.
    variant "modern": dense C3, max-pooling, ReLU, and a linear output, whose largest value names the class.
    """

    head = "output"

    def __init__(
        self,
        variant: str = "paper",
        num_classes: int = 10,
        squashing: str = "scaled_tanh",
        prototypes: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.variant, self.squashing = check_variant("lenet5", variant, VARIANTS), squashing
        self.num_classes = check_num_classes("lenet5", num_classes)
        if squashing not in SQUASHINGS:
            raise ValueError(f"lenet5: unknown squashing {squashing!r}, expected one of {SQUASHINGS}")
        if variant != "paper" and (squashing != SQUASHINGS[0] or prototypes is not None):
            raise ValueError(f"lenet5: squashing and prototypes belong to 'paper', variant is {variant!r}")
        s2: torch.nn.Module
        c3: torch.nn.Module
        s4: torch.nn.Module
        output: torch.nn.Module
        if variant == "paper":
            act = squashing
            s2, s4 = nn.Subsample2d(6, activation=act), nn.Subsample2d(16, activation=act)
            c3 = PartialConv2d(6, C3_TABLE, 5, activation=act)
            centers = _check_prototypes(prototypes, num_classes)
            if prototypes is None and squashing == "sigmoid":
                centers = (centers + 1) / 2  # F6 then reaches 0 to 1, not -1 to 1
            output = nn.RBFOutput(centers)
        else:
            act = "relu"
            s2, s4 = nn.MaxPool2d(2), nn.MaxPool2d(2)
            c3 = nn.Conv2d(6, 16, 5, activation=act)
            output = nn.Linear(84, num_classes)
        self.features = torch.nn.Sequential(
            OrderedDict(
                c1=nn.Conv2d(1, 6, 5, activation=act),
                s2=s2,
                c3=c3,
                s4=s4,
                c5=nn.Conv2d(16, 120, 5, activation=act),
            )
        )
        self.f6 = nn.Linear(120, 84, activation=act)
        self.output = output
        if variant == "paper":
            self._initialise()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, 1, 32, 32) to (N, num_classes): squared distances ("paper") or logits ("modern")."""
        return self.forward_head(self.forward_features(input))

    def forward_features(self, input: torch.Tensor) -> torch.Tensor:
        return self.features(input)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.f6(torch.flatten(features, 1))
        return x if pre_logits else self.output(x)

    @property
    def num_features(self) -> int:
        return self.f6.out_features

    def reset_classifier(self, num_classes: int) -> None:
        if self.variant == "paper" and num_classes:
            raise ValueError(
                "reset_classifier: the paper's output is a set of prototypes, none can be drawn at random; "
                "build lenet5(num_classes=..., prototypes=...)"
            )
        super().reset_classifier(num_classes)

    def stages(self) -> list[list[torch.nn.Module]]:
        return split_before(self.features, nn.MaxPool2d, nn.Subsample2d)

    def predict(self, input: torch.Tensor) -> torch.Tensor:
        """The class of each picture, (N,): the smallest distance or the largest logit."""
        scores = self(input)
        return scores.argmin(1) if self.variant == "paper" else scores.argmax(1)

    @torch.no_grad()
    def _initialise(self) -> None:
        # The paper draws every weight from U(-2.4 / fan_in, 2.4 / fan_in), one fan-in a unit. A sigmoid is
        # four times flatter than tanh and never negative: with that rule the network stays at chance.
        sigmoid = self.squashing == "sigmoid"

        def uniform(tensor: torch.Tensor, fan_in: int) -> None:
            bound = 4 / math.sqrt(fan_in) if sigmoid else 2.4 / fan_in
            tensor.uniform_(-bound, bound)

        for module in self.modules():
            if isinstance(module, PartialConv2d):
                area, start = module.weight[0].numel(), 0
                for maps in module.table:
                    uniform(module.weight[start : start + len(maps)], len(maps) * area)
                    start += len(maps)
                module.bias.zero_()
            elif isinstance(module, nn.Subsample2d):
                if sigmoid:
                    module.coefficient.fill_(1.0)
                else:
                    uniform(module.coefficient, module.kernel_size**2)
                module.bias.zero_()
            elif isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                uniform(module.weight, math.prod(module.weight.shape[1:]))
                cast(torch.Tensor, module.bias).zero_()


def _check_prototypes(prototypes: torch.Tensor | None, num_classes: int) -> torch.Tensor:
    if prototypes is None:
        if num_classes != 10:
            raise ValueError(
                f"lenet5: num_classes is {num_classes}, but the paper's prototypes draw ten digits: "
                f"give prototypes of shape ({num_classes}, 84)"
            )
        return digit_prototypes()
    if prototypes.shape != (num_classes, 84):
        expected = f"({num_classes}, 84)"
        raise ValueError(f"lenet5: prototypes has shape {tuple(prototypes.shape)}, expected {expected}")
    return prototypes


def lenet5(
    variant: str = "paper",
    num_classes: int = 10,
    weights: PathLike | None = None,
    *,
    squashing: str = "scaled_tanh",
    prototypes: torch.Tensor | None = None,
) -> LeNet5:
    """LeNet-5 on 1x32x32 pictures.

    Args:
        variant: "paper" (60,000 trainable parameters) or "modern" (61,706).
        num_classes: classes; the paper's prototypes exist for ten.
        weights: a .safetensors or .pth file.
        squashing: "paper" only: "scaled_tanh" (the paper's 1.7159 * tanh(2/3 a)), "tanh" or "sigmoid" (the
            bitmaps are then 0 and 1, which is all it can reach).
        prototypes: "paper" only: (num_classes, 84) centres in place of the digits' bitmaps.

    Raises:
        ValueError: an unknown variant or squashing, prototypes of another shape, weights that do not fit.
    """
    return load_weights(LeNet5(variant, num_classes, squashing, prototypes), weights)
