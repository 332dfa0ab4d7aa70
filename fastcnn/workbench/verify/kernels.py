"""Verification of kernels on the device at hand, against float64, and its record in the hardware ledger."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.backends import cuda as cuda_backend
from fastcnn.core.backend import use_backend
from fastcnn.core.candidate import Candidate
from fastcnn.core.ledger import Entry
from fastcnn.core.selector import SELECTORS, Selector

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TF32_ERROR = 2.0**-10  # one unit of its mantissa: rounded operands give a third of that, cut off ones three quarters


class Case(NamedTuple):
    """One problem: the shapes of its tensors (None for an absent one) and its scalar arguments."""

    shapes: tuple[tuple[int, ...] | None, ...]
    params: tuple[Any, ...] = ()


def _conv(N: int, C: int, size: int, K: int, kernel: int, stride: int = 1, groups: int = 1, **epilogue: Any) -> Case:
    padding = kernel // 2
    P = (size + 2 * padding - kernel) // stride + 1
    residual = (N, K, P, P) if epilogue.get("residual") else None
    params = (stride, padding, 1, groups, epilogue.get("activation"))
    return Case(((N, C, size, size), (K, C // groups, kernel, kernel), (K,), residual), params)


def _stem(N: int, C: int, size: int, K: int, kernel: int, stride: int, padding: int, pool: tuple[Any, ...],
          activation: str = "relu") -> Case:  # fmt: skip
    return Case(((N, C, size, size), (K, C, kernel, kernel), (K,), None), ((stride, padding, 1, 1, activation), pool))


# Odd sizes and ragged channels beside the shapes that the networks have; the last case of each is the one timed.
CASES: dict[str, tuple[Case, ...]] = {
    "conv2d": (
        _conv(2, 5, 13, 7, 3, activation="relu"),
        _conv(1, 3, 37, 64, 7, stride=2, activation="relu"),
        _conv(3, 24, 9, 40, 5, activation="tanh"),
        _conv(2, 32, 15, 48, 3, stride=2, groups=2),
        _conv(1, 72, 11, 200, 1, residual=True, activation="relu"),
        _conv(0, 16, 8, 16, 3),
        _conv(8, 64, 56, 64, 3, residual=True, activation="relu"),
    ),
    "linear": (Case(((3, 83), (37, 83), (37,)), ("relu",)), Case(((8, 4096), (1000, 4096), (1000,)), (None,))),
    "local_response_norm": (
        Case(((2, 19, 9, 7),), (5, 0.3, 0.75, 1.0)),
        Case(((1, 6, 5, 5),), (4, 1e-2, 0.5, 2.0)),
        Case(((8, 96, 55, 55),), (5, 1e-4, 0.75, 2.0)),
    ),
    "lrn_max_pool2d": (
        Case(((2, 19, 9, 7),), ((5, 0.3, 0.75, 1.0), (3, 2, 1, 1, True))),
        Case(((8, 96, 55, 55),), ((5, 1e-4, 0.75, 2.0), (3, 2, 0, 1, False))),
    ),
    "conv2d_max_pool2d": (
        _stem(2, 1, 32, 6, 5, 1, 0, (2, 2, 0, 1, False), "tanh"),
        _stem(1, 3, 63, 37, 11, 4, 2, (3, 2, 0, 1, False)),
        _stem(2, 3, 45, 64, 7, 2, 3, (3, 2, 0, 1, True)),
        _stem(8, 3, 224, 64, 7, 2, 3, (3, 2, 1, 1, False)),
    ),
    "max_pool2d": (
        Case(((2, 19, 9, 7),), (3, 2, 1, 1, True)),
        Case(((8, 64, 112, 112),), (3, 2, 1, 1, False)),
    ),
    "avg_pool2d": (
        Case(((2, 19, 9, 7),), (3, 2, 1, True, False, None)),
        Case(((8, 512, 14, 14),), (5, 3, 0, False, True, None)),
    ),
    "adaptive_avg_pool2d": (Case(((2, 19, 9, 7),), ((3, 2),)), Case(((8, 1024, 7, 7),), (1,))),
    "subsample2d": (
        Case(((2, 19, 9, 7), (19,), (19,)), (2, "sigmoid")),
        Case(((256, 6, 28, 28), (6,), (6,)), (2, "scaled_tanh")),
    ),
    "concat": (Case(((2, 19, 9, 7), (2, 5, 9, 7))), Case(((8, 64, 28, 28), (8, 128, 28, 28), (8, 32, 28, 28)))),
    "add_relu": (Case(((2, 19, 9, 7), (2, 19, 9, 7))), Case(((8, 256, 56, 56), (8, 256, 56, 56)))),
    "rbf": (Case(((3, 83), (10, 83))), Case(((256, 84), (10, 84)))),
}


class Outcome(NamedTuple):
    """What became of one kernel in one dtype: an entry for the ledger, or what was wrong."""

    kernel: str
    dtype: str
    entry: Entry | None
    problem: str


def verify(device: torch.device, backends: tuple[str, ...] = ("cuda", "triton"), only: str = "") -> Iterator[Outcome]:
    """Runs every kernel of the backends in every dtype over `CASES` on the device; yields an outcome each.

    only: kernels whose name, "<op>.<backend>.<name>", contains this text.

    A kernel passes if on each case its relative L2 error against float64 is at most twice that of PyTorch's own
    operators in the same dtype, with an epsilon floor; in float32 it must also stay under 2e-3 with TF32 allowed.
    """
    for operator, candidate, dtype in kernels(backends):
        if only in kernel_name(operator, candidate):
            yield verify_one(operator, candidate, dtype, device)


def kernels(backends: tuple[str, ...]) -> Iterator[tuple[Selector, Candidate, str]]:
    """Every kernel of the backends with each of its dtypes."""
    for operator in SELECTORS.values():
        for candidate in operator.candidates:
            if candidate.backend in backends:
                for name in DTYPES:
                    if name in candidate.dtypes or candidate.dtypes == ("every dtype of PyTorch",):
                        yield operator, candidate, name


def kernel_name(operator: Selector, candidate: Candidate) -> str:
    """As the ledger has it: "<op>.<backend>.<name>"."""
    return f"{operator.name}.{candidate.backend}.{candidate.name}"


def architecture(device: torch.device) -> str:
    """ "sm_90" and the like for a GPU, the device's type for any other."""
    if device.type != "cuda":
        return device.type
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def verify_one(operator: Selector, candidate: Candidate, dtype: str, device: torch.device) -> Outcome:
    """Runs one kernel in one dtype over its operator's `CASES`, as `verify` says."""
    kernel = kernel_name(operator, candidate)
    worst, ran, refused, microseconds, timed = 0.0, 0, "", None, ""
    for case in CASES[operator.name]:
        tensors = _tensors(case, DTYPES[dtype], device)
        params = operator.normalise(tensors, case.params)
        problem = operator.infer((*tensors, None), params)
        with use_backend(candidate.backend):
            reason = candidate.supports(problem)
            if reason and not reason.endswith(cuda_backend.SLOWER):
                refused = reason
                continue
            try:
                exact = operator.definition(*(None if t is None else t.double() for t in tensors), *params)
                for tf32 in (True, False) if dtype == "float32" else (False,):
                    with _tf32(tf32):
                        runner = candidate.prepare(problem)
                        ours = runner(*tensors, None)
                        theirs = operator.definition(*tensors, *params)
                    error, allowed = _error(ours, exact), TF32_ERROR
                    if not tf32:
                        allowed = 2 * _error(theirs, exact) + torch.finfo(DTYPES[dtype]).eps
                        worst = max(worst, error)
                    if not error <= allowed:
                        return Outcome(
                            kernel, dtype, None, f"error {error:.1e}, allowed {allowed:.1e}: {problem.summary()}"
                        )
                microseconds, timed = _median_us(partial(runner, *tensors, None), device), problem.summary()
            except Exception as error:
                return Outcome(kernel, dtype, None, f"{type(error).__name__}: {error}: {problem.summary()}")
        ran += 1
    if not ran:
        return Outcome(kernel, dtype, None, f"takes none of the cases: {refused}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    today = datetime.date.today().isoformat()
    entry = Entry(kernel, dtype, architecture(device), name, today, worst, microseconds, timed)
    return Outcome(kernel, dtype, entry, "")


def _tensors(case: Case, dtype: torch.dtype, device: torch.device) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    tensors: list[Tensor | None] = []
    for i, shape in enumerate(case.shapes):
        if shape is None:
            tensors.append(None)
            continue
        tensor = torch.randn(shape, generator=generator)
        if i == 1 and len(shape) in (2, 4):  # a weight: sums keep the scale of the input
            tensor /= max(1, tensor[0].numel()) ** 0.5
        tensors.append(tensor.to(device, dtype))
    return tensors


def _error(result: Tensor, exact: Tensor) -> float:
    if exact.numel() == 0:
        return 0.0
    return ((result.double() - exact).norm() / exact.norm()).item()


def _median_us(call: Callable[[], Tensor], device: torch.device, repeats: int = 20) -> float:
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) * 1e6)
    return sorted(times)[repeats // 2]


class _tf32:
    """Allows or forbids TF32 in PyTorch's convolutions and matrix products within a block."""

    def __init__(self, allowed: bool) -> None:
        self.allowed = allowed

    def __enter__(self) -> None:
        self.before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.allowed

    def __exit__(self, *exception: object) -> None:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = self.before
