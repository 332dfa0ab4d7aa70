"""What the Triton candidates share. Imports no triton: that waits until a kernel is prepared."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastcnn.backends.triton.target import INTERPRETING, LAUNCH_SECONDS, target_of
from fastcnn.core import layout, ledger
from fastcnn.core.backend import current_backend
from fastcnn.core.candidate import Candidate, P, Problem, Runner

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
ARCHITECTURES: tuple[str, ...] = ("sm_75", "sm_80", "sm_87", "sm_90", "sm_100", "sm_110", "sm_120")


def reason_against(
    kernel: str,
    problem: Problem,
    dtypes: Iterable[Any] = DTYPES,
    products: str | None = None,
    tensor_cores: bool = True,
) -> str | None:
    """Why the Triton kernel "<op>.triton.<name>" cannot or should not take the problem; None if it may.

    products: "conv" or "matmul" where the kernel multiplies, at the precision PyTorch sets; tensor_cores: on those.
    """
    demanded = current_backend() == "triton"
    if problem.device.type != ("cpu" if INTERPRETING else "cuda"):
        return f"the input is on {problem.device}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if problem.dtype not in dtypes:
        return f"{problem.dtype} is not one of {', '.join(DTYPES.values())}"
    if problem.y_stride is None:
        return "out is not a channels_last tensor or channel slice, or overlaps an input"
    if INTERPRETING:
        return None if demanded else "Triton's interpreter runs only where the backend is demanded"
    major, minor = torch.cuda.get_device_capability(problem.device)
    if (major, minor) < (7, 5):
        return f"sm_{major}{minor} is older than sm_75"
    if major < 8 and problem.dtype == torch.bfloat16:
        return f"sm_{major}{minor} has no bfloat16"
    if major < 8 and products is not None and tensor_cores:
        return f"Triton compiles no tensor-core instruction for sm_{major}{minor}"
    if not demanded:
        dtype = dtype_key(problem.dtype, products)
        name = torch.cuda.get_device_name(problem.device)
        ledger.hint(f"sm_{major}{minor}", name)
        return ledger.reason_against(kernel, dtype, f"sm_{major}{minor}") or ledger.reason_against_race(
            kernel, dtype, name, ledger.kind(problem)
        )
    return None


def plan_against(kernel: str, problem: Problem, plan: Callable[[], str], products: str | None = None) -> str | None:
    """Why the configuration that a kernel would run a problem by must not be chosen by default; None if it may."""
    if INTERPRETING or current_backend() == "triton":
        return None
    major, minor = torch.cuda.get_device_capability(problem.device)
    return ledger.reason_against(kernel, dtype_key(problem.dtype, products), f"sm_{major}{minor}", plan())


def dtype_key(dtype: torch.dtype, products: str | None) -> str:
    """A dtype as the ledger has it: "tf32" where the kernel multiplies float32 and PyTorch lets it round to that.

    products: "conv" or "matmul" where the kernel multiplies on tensor cores, at the precision PyTorch sets for it.
    """
    name = DTYPES.get(dtype, "float32")
    return "tf32" if name == "float32" and products is not None and tf32_allowed(products) else name


def output_stride(problem: Problem) -> int:
    """The output's pixel stride, of a problem that `reason_against` let through."""
    if problem.y_stride is None:
        raise ValueError(f"{problem.summary()}: out is not a channels_last tensor or channel slice")
    return problem.y_stride


def tf32_allowed(kind: str) -> bool:
    """Whether PyTorch may round float32 operands of a "conv" or "matmul" to TF32."""
    if _PRECISION is not None:
        return bool(_PRECISION("cuda", kind) == "tf32")
    backend: Any = torch.backends.cudnn if kind == "conv" else torch.backends.cuda.matmul
    return bool(backend.allow_tf32)  # before torch 2.9


def tf32_setting(kind: str) -> Callable[[], Any]:
    """What `tf32_allowed` depends on, as a question cheap enough for every call."""
    return partial(tf32_allowed, kind) if _PRECISION is None else partial(_PRECISION, "cuda", kind)


# torch.backends asks the same, forty times slower: too slow for a question of every call.
_PRECISION = getattr(torch._C, "_get_fp32_precision_getter", None)


def candidate(
    op: str,
    name: str,
    prepare: Callable[[P], Runner],
    supports: Callable[[P], str | None] = lambda problem: None,
    note: Callable[[P], str] | None = None,
    products: str | None = None,
    tensor_cores: bool = True,
) -> Candidate[P]:
    """A Triton candidate; `supports` adds what this kernel needs beyond what all need, `note` what to explain."""
    kernel = f"{op}.triton.{name}"
    return Candidate(
        "triton",
        name,
        lambda problem: (
            reason_against(kernel, problem, products=products, tensor_cores=tensor_cores) or supports(problem)
        ),
        prepare,
        dtypes=tuple(DTYPES.values()),
        architectures=ARCHITECTURES,
        note=note,
    )


def memory_note(elements: Callable[[P], int]) -> Callable[[P], str]:
    """The note of a kernel that memory bounds: `elements` counts what it must read and write, once each."""

    def note(problem: P) -> str:
        target, size = target_of(problem.device), elements(problem) * problem.dtype.itemsize
        seconds = LAUNCH_SECONDS + size / target.dram_bytes
        return f"on {target.name}: predicted {seconds * 1e6:.1f} us, {size / 1e6:.1f} MB of memory (never measured)"

    return note


def image_elements(problem: Any) -> int:
    """An image read and one written."""
    elements: int = problem.N * problem.H * problem.W * problem.C + math.prod(problem.output_shape)
    return elements


def unary_runner(launch: Callable[..., None], problem: Problem) -> Runner:
    """The runner of a launch that is called with (x, y), both channels_last."""
    shape = problem.output_shape

    def run(input: Tensor, out: Tensor | None) -> Tensor:
        x = layout.channels_last(input)
        y = layout.empty(shape, input) if out is None else out
        launch(x, y)
        return y

    return run
