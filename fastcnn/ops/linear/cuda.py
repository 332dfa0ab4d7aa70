"""linear in CUDA C++: the 1x1 convolution of N images of one pixel."""

from __future__ import annotations

from torch import Tensor

from fastcnn.backends import cuda as cuda_backend
from fastcnn.core.candidate import Runner
from fastcnn.ops.conv2d.cuda import by_precision
from fastcnn.ops.linear.contract import LinearProblem
from fastcnn.ops.linear.cpu import native_problem
from fastcnn.ops.linear.reference import CANDIDATES as REFERENCE
from fastcnn.ops.linear.triton import as_conv2d


def _supports(problem: LinearProblem) -> str | None:
    if not problem.plain:
        return "weight is not (out_features, in_features) or bias is not (out_features,)"
    if problem.D == 0 or problem.M == 0:
        return "there are no features"
    return None


def _prepare(problem: LinearProblem) -> Runner:
    struct = cuda_backend.kernels().conv2d_from_linear(native_problem(problem))
    product = by_precision(struct, as_conv2d(problem), "matmul")

    def run(input: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
        y = problem.empty_output(input)
        if y.numel():
            b = None if bias is None else bias.contiguous()
            product()(input.contiguous(), weight.contiguous(), b, None, y)
        return y

    return run


CANDIDATES = (cuda_backend.candidate("linear", "linear", _prepare, REFERENCE[0], _supports, products="matmul"),)
