"""Whether a kernel's result is right: tensors between guards, and a bound on the largest error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcnn.core.cases import Case

# One unit of TF32's mantissa. Rounded operands give a relative L2 error of a third of it, cut off ones three quarters.
TF32_ERROR = 2.0**-10

# Elements of NaN before and after each tensor: whatever is read from there shows in the result, what is written there
# is found. 128 bytes at least, so that every tensor stays aligned.
GUARD = 64
SLICE = 16  # channels on both sides of a channel slice


class Guarded(NamedTuple):
    """A tensor within a larger buffer whose rest is NaN."""

    tensor: Tensor
    buffer: Tensor

    def intact(self) -> bool:
        """Whether everything around the tensor is still NaN."""
        outside = torch.ones(self.buffer.shape, dtype=torch.bool, device=self.buffer.device)
        torch.as_strided(outside, self.tensor.shape, self.tensor.stride(), self.tensor.storage_offset()).fill_(False)
        return bool(self.buffer[outside].isnan().all())


def guarded(shape: Sequence[int], dtype: torch.dtype, device: torch.device, sliced: bool) -> Guarded:
    """A tensor of NaN: channels_last if it has four dimensions, then a channel slice of a wider one if so asked."""
    if len(shape) == 4:
        N, C, H, W = shape
        pixel = C + 2 * SLICE if sliced else C
        buffer = torch.full((N * H * W * pixel + 2 * GUARD,), torch.nan, dtype=dtype, device=device)
        strides = (H * W * pixel, 1, W * pixel, pixel)
        return Guarded(torch.as_strided(buffer, shape, strides, GUARD + (SLICE if sliced else 0)), buffer)
    elements = torch.Size(shape).numel()
    buffer = torch.full((elements + 2 * GUARD,), torch.nan, dtype=dtype, device=device)
    return Guarded(buffer[GUARD : GUARD + elements].view(tuple(shape)), buffer)


def inputs(case: Case, dtype: torch.dtype, device: torch.device, weighted: bool) -> list[Guarded | None]:
    """The case's tensors, random: the same numbers each time. weighted: the second is a weight."""
    generator = torch.Generator().manual_seed(0)
    found: list[Guarded | None] = []
    for i, shape in enumerate(case.shapes):
        if shape is None:
            found.append(None)
            continue
        is_weight = weighted and i == 1
        values = torch.randn(shape, generator=generator)
        if is_weight:  # sums keep the scale of the input
            values /= max(1, values[0].numel()) ** 0.5
        tensor = guarded(shape, dtype, device, case.sliced and not is_weight)
        tensor.tensor.copy_(values)
        found.append(tensor)
    return found


def error(result: Tensor, exact: Tensor) -> float:
    """The relative L2 error; infinite where it is no number."""
    if exact.numel() == 0:
        return 0.0
    found = ((result.double() - exact).norm() / exact.norm()).item()
    return found if found == found else float("inf")


def verdict(result: Tensor, exact: Tensor, theirs: Tensor, tf32: bool) -> str:
    """What is wrong with a result; "" if nothing is.

    Each element must lie within twice the largest error of PyTorch's own operator, with a floor of one rounding of
    the element; with TF32 allowed, of two of its units of the largest element. The relative L2 error must be at most
    twice PyTorch's, with the same floors. A bound on the norm alone lets a wholly wrong tile of a large result pass.
    """
    if result.shape != exact.shape:
        return f"its shape is {tuple(result.shape)}, not {tuple(exact.shape)}"
    if exact.numel() == 0:
        return ""
    eps = torch.finfo(result.dtype).eps
    difference, own = (result.double() - exact).abs(), (theirs.double() - exact).abs()
    largest = exact.abs().max()
    allowed = 2 * own.max() + eps * exact.abs() + 1e-2 * eps * largest + (2 * TF32_ERROR * largest if tf32 else 0.0)
    wrong = ~(difference <= allowed)  # NaN is wrong too
    count = int(wrong.sum())
    if count:
        worst = difference.nan_to_num(torch.inf, torch.inf).argmax()
        return (
            f"{count} of {wrong.numel()} values are wrong, {int(result.isnan().sum())} NaN; the worst is off by "
            f"{difference.flatten()[worst].item():.2g}, allowed {allowed.flatten()[worst].item():.2g}"
        )
    bound = 2 * error(theirs, exact) + (TF32_ERROR if tf32 else eps)
    if error(result, exact) > bound:
        return f"relative error {error(result, exact):.1e}, allowed {bound:.1e}"
    return ""


class Trial(NamedTuple):
    """A case's tensors with the results to compare with: float64's and PyTorch's own."""

    tensors: list[Any]
    buffers: list[Guarded]
    before: list[Tensor]
    exact: Tensor
    theirs: Tensor

    @classmethod
    def of(cls, operator: Any, case: Case, params: tuple[Any, ...], found: list[Guarded | None]) -> Trial:
        tensors = [None if g is None else g.tensor for g in found]
        buffers = [g for g in found if g is not None]
        exact = operator.definition(*(None if t is None else t.double() for t in tensors), *params)
        theirs = operator.definition(*tensors, *params)
        return cls(tensors, buffers, [g.tensor.clone() for g in buffers], exact, theirs)

    def touched(self) -> str:
        """Which of its inputs a kernel has changed, or what lies around them; "" if none.

        A changed input is put back: the plans that follow read it.
        """
        for buffer, before in zip(self.buffers, self.before, strict=True):
            if not torch.equal(buffer.tensor, before):
                buffer.tensor.copy_(before)
                return f"an input of shape {tuple(before.shape)} was changed"
            if not buffer.intact():
                return f"what lies beside an input of shape {tuple(before.shape)} was overwritten"
        return ""
