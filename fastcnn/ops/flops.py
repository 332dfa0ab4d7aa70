"""What torch.utils.flop_counter counts for our operators: two a multiply-add, as for PyTorch's own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula


def _conv2d(input: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _linear(input: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * math.prod(out_shape) * weight[-1]


def register() -> None:
    register_flop_formula(torch.ops.fastcnn.conv2d)(_conv2d)
    register_flop_formula(torch.ops.fastcnn.linear)(_linear)
