"""fastcnn: hand-written kernels for convolutional networks in PyTorch."""

from importlib.metadata import PackageNotFoundError, version

from fastcnn import functional, models, nn
from fastcnn.core.backend import use_backend
from fastcnn.core.candidate import Unsupported
from fastcnn.core.explain import Explanation, explain
from fastcnn.core.packing import clear_packed, refresh
from fastcnn.ops.conv2d.cpu import set_winograd_tolerance
from fastcnn.optimize import optimize

try:
    __version__ = version("fastcnn")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

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
    "refresh",
    "set_winograd_tolerance",
    "use_backend",
]
