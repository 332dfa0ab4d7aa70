"""torchvision's model definitions, also where its compiled operators are absent.

    from torchvision_cpu import models

A torchvision built without its extension fails on import, because it registers fake kernels for operators that
nothing has declared. No network here uses those operators: declaring them is enough.
"""

import sys

import torch

try:
    from torchvision import models
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import models

__all__ = ["models"]
