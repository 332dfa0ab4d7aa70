"""torchvision's model definitions, also where its compiled operators are absent.

from torchvision_cpu import models
"""

from fastcnn.workbench.report.classifiers import torchvision_models

models = torchvision_models()

__all__ = ["models"]
