"""lrn_max_pool2d in CUDA C++: csrc/ops/lrn/lrn_cuda.cu."""

from __future__ import annotations

from torch import Tensor

from fastcnn.backends import cuda as cuda_backend
from fastcnn.core import layout
from fastcnn.core.candidate import Runner
from fastcnn.ops.fused import in_pytorch
from fastcnn.ops.lrn import local_response_norm
from fastcnn.ops.lrn_max_pool2d.contract import LrnMaxPool2dProblem
from fastcnn.ops.lrn_max_pool2d.cpu import structs
from fastcnn.ops.pool import max_pool2d


def _prepare(problem: LrnMaxPool2dProblem) -> Runner:
    call, (lrn, pool) = cuda_backend.kernels().lrn_max_pool, structs(problem)
    shape, device = problem.output_shape, problem.device

    def run(input: Tensor, out: None) -> Tensor:
        x, y = layout.channels_last(input), layout.empty(shape, input)
        cuda_backend.launch(device, call, lrn, pool, x.data_ptr(), y.data_ptr())
        return y

    return run


NAME = "lrn_max_pool2d"
CANDIDATES = (
    cuda_backend.candidate(NAME, "lrn_max_pool", _prepare, in_pytorch(NAME, local_response_norm, max_pool2d)),
)
