"""Whole blocks by Triton kernels in the interpreter, against PyTorch and float64. Run by test_interpreter.py."""

from __future__ import annotations

import copy

import pytest
import torch
from parity import DTYPES, Slice, compare

import fastcnn
from fastcnn import nn

BLOCKS = {
    "ResNet-50, first block of a stage": (lambda: nn.Bottleneck(32, 16, stride=2), (1, 32, 8, 8)),
    "ResNet-50, any other block": (lambda: nn.Bottleneck(64, 16), (2, 64, 7, 7)),
    "ResNet-18": (lambda: nn.BasicBlock(16, 16), (1, 16, 8, 7)),
    "GoogLeNet": (lambda: nn.Inception(24, 16, 24, 32, 8, 8, 8), (1, 24, 7, 7)),
    "GoogLeNet, ragged channels": (lambda: nn.Inception(13, 5, 7, 11, 3, 9, 6), (2, 13, 6, 5)),
    "GoogLeNet, torchvision's": (lambda: nn.Inception(24, 16, 24, 32, 8, 8, 8, batch_norm=True), (1, 24, 7, 7)),
    "GoogLeNet's first layers": (
        lambda: torch.nn.Sequential(
            nn.Conv2d(3, 16, 7, stride=2, padding=3, activation="relu"),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            nn.LocalResponseNorm(5, alpha=0.1),
        ),
        (1, 3, 18, 15),
    ),
    "ResNet-50's last layers": (
        lambda: torch.nn.Sequential(nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), nn.Linear(32, 10)), (3, 32, 7, 7)
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_run_end_to_end(name, dtype):
    """fastcnn's own layers by Triton's kernels, against PyTorch's operators and float64; no kernel reads too far."""
    build, shape = BLOCKS[name]
    torch.manual_seed(0)
    block = build().eval().to(dtype)
    x = Slice(shape[0], *shape[2:], shape[1], dtype, before=3, after=5, seed=1).nchw
    with torch.no_grad():
        with fastcnn.use_backend("reference"):
            exact = copy.deepcopy(block).double()(x.double())
            own = block(x)
        with fastcnn.use_backend("triton"):
            got = block(x)
    compare(got, own, exact, floor_scale=8)


def test_blocks_run_no_other_kernel():
    """Under a demanded backend a block has no operator of PyTorch's but batch normalisation and its ReLU."""
    taken = fastcnn.explain(on_triton, BLOCKS["GoogLeNet"][0]().eval(), torch.randn(1, 24, 7, 7)).choices
    assert [(choice.operator, choice.taken.backend) for choice in taken] == [
        ("conv2d", "triton"), ("conv2d", "triton"), ("conv2d", "triton"), ("max_pool2d", "triton"), ("conv2d", "triton")
    ]  # fmt: skip


def on_triton(block, x):
    with fastcnn.use_backend("triton"):
        return block(x)
