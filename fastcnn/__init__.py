"""fastcnn: hand-written kernels for convolutional networks in PyTorch."""

from fastcnn import functional, models, nn
from fastcnn.core.backend import use_backend
from fastcnn.core.candidate import Unsupported
from fastcnn.core.explain import Explanation, explain
from fastcnn.core.packing import clear_packed, refresh
from fastcnn.core.version import VERSION as __version__
from fastcnn.ops.conv2d.cpu import set_winograd_tolerance
from fastcnn.optimize import optimize
from fastcnn.optimize.int8.quantize import quantize

__all__ = [
    "Explanation",
    "Unsupported",
    "__version__",
    "clear_packed",
    "explain",
    "functional",
    "models",
    "nn",
    "optimize",
    "quantize",
    "refresh",
    "set_winograd_tolerance",
    "use_backend",
]
