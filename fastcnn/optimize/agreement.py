"""Whether a plan computes what the model computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def difference(got: Sequence[Tensor], wanted: Sequence[Tensor], rounding: float) -> str:
    """What is different, in words; empty if the results agree to rounding, relative to the largest value."""
    for i, (ours, theirs) in enumerate(zip(got, wanted, strict=True)):
        found = _difference(ours, theirs, rounding)
        if found:
            return f"result {i}: {found}" if len(wanted) > 1 else found
    return ""


def tolerance(dtypes: Iterable[torch.dtype]) -> float:
    """Half of the digits of the coarsest of the dtypes that a network computes in.

    The rounding of a sum of n terms grows with sqrt(n), that of layers with their number; it leaves half of the digits
    in networks that work in the dtype. A graph that computes something else differs in the first.
    """
    return max([torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point], default=0.0) ** 0.5


def _difference(ours: Tensor, theirs: Tensor, rounding: float) -> str:
    for name in ("dtype", "shape", "device", "requires_grad"):
        if getattr(ours, name) != getattr(theirs, name):
            return f"{name} {getattr(ours, name)} instead of {getattr(theirs, name)}"
    if type(ours) is not type(theirs):
        return f"{type(ours).__name__} instead of {type(theirs).__name__}"
    if ours is theirs or ours.numel() == 0:
        return ""
    if not theirs.is_floating_point() and not theirs.is_complex():
        # A comparison of two rounded numbers may fall the other way here and there.
        wrong = int((ours != theirs).sum())
        return f"{wrong} of {ours.numel()} whole numbers differ" if wrong > ours.numel() // 1000 else ""
    if theirs.is_complex():
        ours, theirs = torch.view_as_real(ours.resolve_conj()), torch.view_as_real(theirs.resolve_conj())
    special = theirs.isnan() | theirs.isinf()
    if bool(special.any()):
        same = torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(ours == torch.inf, theirs == torch.inf)
        if not same or not torch.equal(ours == -torch.inf, theirs == -torch.inf):
            return "NaN or infinity in other places"
        ours, theirs = ours.masked_fill(special, 0), theirs.masked_fill(special, 0)
    wide = torch.float64 if theirs.dtype is torch.float64 else torch.float32
    error = (ours.to(wide) - theirs.to(wide)).abs().max().item()
    scale = theirs.to(wide).abs().max().item()
    if error <= rounding * scale:
        return ""
    return f"largest difference {error:.3g} where the largest value is {scale:.3g}"
