"""What torch.utils.flop_counter counts for our operators: two a multiply-add, as for PyTorch's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import register_flop_formula

Shape = Sequence[int]


def _conv2d(input: Shape, weight: Shape, *_: object, out_shape: Shape, **__: object) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _linear(input: Shape, weight: Shape, *_: object, out_shape: Shape, **__: object) -> int:
    return 2 * math.prod(out_shape) * weight[-1]


def register() -> None:
    register_flop_formula(torch.ops.fastcnn.conv2d)(_conv2d)
    register_flop_formula(torch.ops.fastcnn.linear)(_linear)
