"""Classifiers that others wrote, to be timed through `fastcnn.optimize`: torchvision's and timm's, random weights."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

# Families: plain, fire modules, inception, residual, dense, depthwise, squeeze and excitation, re-parameterised,
# aggregated, cross-stage, split attention. timm's are marked.
CLASSIFIERS = (
    "alexnet", "vgg11_bn", "squeezenet1_1", "googlenet", "inception_v3", "resnet18", "resnet50", "resnext50_32x4d",
    "wide_resnet50_2", "densenet121", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0", "efficientnet_b0",
    "mnasnet1_0", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny", "timm:repvgg_a0", "timm:mobileone_s0",
    "timm:seresnet50", "timm:ghostnet_100", "timm:hrnet_w18_small", "timm:dla34", "timm:cspresnet50", "timm:dpn68",
    "timm:res2net50_26w_4s", "timm:resnetv2_50", "timm:xception41", "timm:rexnet_100", "timm:selecsls42b",
    "timm:vovnet39a", "timm:resnest14d",
)  # fmt: skip
_IMAGES = {"inception_v3": 299, "timm:xception41": 299}


def build(name: str) -> nn.Module:
    """A classifier of 1000 classes in eval mode."""
    models = torchvision_models()
    if name.startswith("timm:"):
        import timm  # it imports torchvision

        return timm.create_model(name.removeprefix("timm:"), pretrained=False).eval()
    options: dict[str, Any] = {"googlenet": {"aux_logits": False}}.get(name, {})
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # its own way of drawing them takes a minute
    return getattr(models, name)(weights=None, **options).eval()


def image(name: str) -> int:
    """The height and width of its images."""
    return _IMAGES.get(name, 224)


def torchvision_models() -> Any:
    """torchvision.models, also where torchvision's compiled operators are absent.

    A torchvision built without its extension fails on import, because it registers fake kernels for operators that
    nothing has declared. No classifier uses those operators: declaring them is enough.
    """
    try:
        from torchvision import models
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision import models
    return models
