"""Layers: drop-ins for their torch.nn namesakes (same constructor, same state_dict), and the fused ones."""

from fastcnn.nn.blocks import BasicBlock, Bottleneck, Inception
from fastcnn.nn.layers import (
    AdaptiveAvgPool2d,
    AddReLU,
    AvgPool2d,
    Concat,
    Conv2d,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    RBFOutput,
    Subsample2d,
)

__all__ = [
    "AdaptiveAvgPool2d",
    "AddReLU",
    "AvgPool2d",
    "BasicBlock",
    "Bottleneck",
    "Concat",
    "Conv2d",
    "Inception",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "RBFOutput",
    "Subsample2d",
]
