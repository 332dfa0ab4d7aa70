"""The pools in CUDA C++."""

from fastcnn.backends import cuda as cuda_backend
from fastcnn.ops.pool import reference
from fastcnn.ops.pool.cpu import native_adaptive_avg_pool2d, native_pool2d

MAX_CANDIDATES = (cuda_backend.unary_candidate("max_pool2d", "pool2d", native_pool2d, reference.MAX_CANDIDATES[0]),)
AVG_CANDIDATES = (cuda_backend.unary_candidate("avg_pool2d", "pool2d", native_pool2d, reference.AVG_CANDIDATES[0]),)
ADAPTIVE_CANDIDATES = (
    cuda_backend.unary_candidate(
        "adaptive_avg_pool2d",
        "adaptive_avg_pool2d",
        native_adaptive_avg_pool2d,
        reference.ADAPTIVE_CANDIDATES[0],
    ),
)
