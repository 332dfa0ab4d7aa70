"""Classifiers of different families, with random weights and batch normalisations that do something."""

import torch
from torch import nn
from torchvision_cpu import models

# Quick ones, small enough to run by default.
QUICK = (
    "alexnet", "squeezenet1_1", "resnet18", "googlenet", "densenet121", "mobilenet_v2", "mobilenet_v3_small",
    "shufflenet_v2_x0_5", "timm:repvgg_a0", "timm:seresnet18", "timm:test_efficientnet",
)  # fmt: skip
SLOW = (
    "vgg11_bn", "vgg16", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "inception_v3", "efficientnet_b0",
    "mnasnet0_5", "regnet_y_400mf", "regnet_x_400mf", "convnext_tiny", "timm:mobileone_s0", "timm:ghostnet_100",
    "timm:hrnet_w18_small", "timm:dla34", "timm:cspresnet50", "timm:dpn68", "timm:res2net50_26w_4s",
    "timm:resnetv2_50", "timm:tf_efficientnet_b0", "timm:xception41", "timm:rexnet_100", "timm:inception_v4",
    "timm:selecsls42b", "timm:vovnet39a", "timm:resnest14d",
)  # fmt: skip
# The images these take: the default is 64 and 96.
SIZES = {
    "alexnet": (64, 127), "inception_v3": (96, 139), "timm:inception_v4": (96, 139), "googlenet": (64, 95),
    "timm:xception41": (96, 139),
}  # fmt: skip


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        timm = __import__("timm")
        return perturbed(timm.create_model(name.removeprefix("timm:"), pretrained=False, num_classes=20))
    options = {"googlenet": {"aux_logits": False, "init_weights": False}, "inception_v3": {"init_weights": False}}
    return perturbed(getattr(models, name)(weights=None, num_classes=20, **options.get(name, {})))


def perturbed(model: nn.Module) -> nn.Module:
    """Fresh batch normalisations are almost identities: a wrong fold would go unnoticed."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            size = (module.num_features,)
            module.running_mean.copy_(0.1 * torch.randn(size, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(size, generator=generator))
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(size, generator=generator))
                module.bias.copy_(0.1 * torch.randn(size, generator=generator))
    return model.eval()


def program(optimized, *inputs):
    """The program that runs calls like this one; None where the given model runs them."""
    return optimized._fastcnn.program(*inputs)
