"""What every Triton kernel shares: device helpers and the cached launch. Imports triton.

A kernel's op builds `Launch` objects from a problem, without tensors and without a GPU. A `Launch` knows
everything that a compiler needs, so the same object is compiled offline for any architecture (compile.py),
run on a GPU, or run by Triton's interpreter (TRITON_INTERPRET=1, set before the first import of triton).
"""

from __future__ import annotations

import dataclasses
import linecache
import math
import textwrap
import threading
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from triton import jit

from fastcnn.backends.triton.target import INTERPRETING, ceil_div
from fastcnn.core import activations

# Triton's names of the dtypes a kernel may point to.
TRITON_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
}


def next_power_of_2(n: int) -> int:
    return 1 if n <= 1 else 1 << (n - 1).bit_length()


# The interpreter multiplies the bit patterns of bfloat16 operands as integers (triton-lang/triton#11584), so
# kernels widen them there. Products of bfloat16 are exact in float32: the result is what the GPU computes.
_INTERPRETED = tl.constexpr(INTERPRETING)


@jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b; PRECISION is tf32, tf32x3 or ieee and matters for float32 operands only."""
    if _INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@jit
def relu(a):
    """max(a, 0), NaN kept: a maximum instruction would drop it."""
    return tl.where(a < 0, 0.0, a)


@jit
def tanh(a):
    """tanh(a), from exp(-2|a|) where that is accurate and from the odd series near 0, where it cancels."""
    e = tl.exp(-2.0 * tl.abs(a))
    far = (1.0 - e) / (1.0 + e)
    z = a * a
    # Taylor's series to a^13; at |a| = 0.35 the next term is below 2^-27 of the result.
    near = -1382.0 / 155925.0 + z * (21844.0 / 6081075.0)
    near = 62.0 / 2835.0 + z * near
    near = -17.0 / 315.0 + z * near
    near = 2.0 / 15.0 + z * near
    near = -1.0 / 3.0 + z * near
    near = a + a * z * near
    return tl.where(tl.abs(a) < 0.35, near, tl.where(a < 0, -far, far))


@jit
def relu6(a):
    """min(max(a, 0), 6), NaN kept."""
    return tl.where(a < 0, 0.0, tl.where(a > 6, 6.0, a))


def _activate_from_table() -> Any:
    """activate(a, ACTIVATION: tl.constexpr): the activation of that name on a float32 block, a itself for None.

    Triton compiles a function from its source, so the source is written here and left where `inspect` looks for it.
    """
    source = "def activate(a, ACTIVATION: tl.constexpr):\n"
    for row in activations.TABLE.values():
        source += f"    if ACTIVATION == {row.name!r}:\n" + textwrap.indent(row.triton, " " * 8) + "\n"
    source += "    return a\n"
    linecache.cache["<activations>"] = (len(source), None, source.splitlines(keepends=True), "<activations>")
    exec(compile(source, "<activations>", "exec"), globals())
    return jit(globals()["activate"])


activate = _activate_from_table()


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """A tensor argument passed as a tensor descriptor (TMA on sm_90 and later): a view of its storage."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def signature(self) -> str:
        return f"tensordesc<{TRITON_TYPES[self.dtype]}[{','.join(map(str, self.block))}]>"

    def bind(self, base: torch.Tensor | Address) -> Any:
        from triton.tools.tensor_descriptor import TensorDescriptor

        return TensorDescriptor(base, list(self.shape), list(self.strides), list(self.block))


@dataclasses.dataclass(frozen=True)
class Address:
    """All that a descriptor needs of its tensor: a descriptor that is kept must not keep the tensor's memory."""

    address: int
    dtype: torch.dtype

    def data_ptr(self) -> int:
        return self.address


class Launch:
    """One kernel with everything bound but its tensors.

    A kernel's parameters are its tensors, then its numbers, then its constexprs, in this order. The numbers and
    constexprs belong to the problem and are bound here, so that a call only passes pointers: no signature, hash
    or specialisation is worked out again. Triton's own dispatch does all three, for tens of microseconds.
    """

    def __init__(
        self,
        kernel: Any,
        tensors: Sequence[torch.dtype | Descriptor],
        numbers: dict[str, int | float],
        constants: dict[str, Any],
        grid: tuple[int, ...],
        *,
        num_warps: int = 4,
        num_stages: int = 1,
    ):
        self.kernel = kernel
        self.tensors = tuple(tensors)
        self.numbers = numbers
        self.constants = constants
        self.grid = (*grid, 1, 1)[:3]
        self.options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}
        self._tail = (*numbers.values(), *constants.values())
        self._descriptors = [(i, t) for i, t in enumerate(tensors) if isinstance(t, Descriptor)]
        self._bound: dict[tuple[int, int], Any] = {}
        self._compiled: dict[tuple[int, bool], Any] = {}
        names = kernel.arg_names
        given = [*names[: len(tensors)], *numbers, *constants]
        if list(names) != given:
            raise TypeError(f"{kernel.__name__} takes {list(names)}, was given {given}")

    def source(self, aligned: bool) -> Any:
        """What triton.compile takes. `aligned`: all pointers are multiples of 16 bytes, so loads can be wide."""
        from triton.compiler import ASTSource

        names = self.kernel.arg_names
        signature, attrs = {}, {}
        for i, (name, tensor) in enumerate(zip(names, self.tensors, strict=False)):
            if isinstance(tensor, Descriptor):
                signature[name] = tensor.signature
                continue
            signature[name] = "*" + TRITON_TYPES[tensor]
            if aligned:
                attrs[(i,)] = [["tt.divisibility", 16]]
        for i, (name, value) in enumerate(self.numbers.items(), start=len(self.tensors)):
            if isinstance(value, float):
                signature[name] = "fp32"
                continue
            signature[name] = "i32" if -(1 << 31) <= value < 1 << 31 else "i64"
            if value % 16 == 0:
                attrs[(i,)] = [["tt.divisibility", 16]]
        signature |= dict.fromkeys(self.constants, "constexpr")
        return ASTSource(self.kernel, signature, dict(self.constants), attrs)

    def compile(self, arch: int, aligned: bool = True) -> Any:
        """The compiled kernel for an architecture (80, 90, 100, ...); needs no GPU."""
        from triton.backends.compiler import GPUTarget

        return triton.compile(self.source(aligned), target=GPUTarget("cuda", arch, 32), options=self.options)

    def __call__(self, *tensors: torch.Tensor) -> None:
        if INTERPRETING:
            if math.prod(self.grid):
                args = list(tensors)
                for i, descriptor in self._descriptors:
                    args[i] = descriptor.bind(tensors[i])
                self.kernel[self.grid](*args, *self._tail)
            return
        device = tensors[0].device.index
        if device != torch.cuda.current_device():
            with torch.cuda.device(device):
                return self(*tensors)
        bits = 0
        for tensor in tensors:
            bits |= tensor.data_ptr()
        compiled = self._compiled.get((device, bits & 15 == 0))
        if compiled is None:
            compiled = self._compiled[device, bits & 15 == 0] = self._load(tensors[0].device, bits & 15 == 0)
        stream = torch._C._cuda_getCurrentRawStream(device)
        compiled.run(
            *self.grid, stream, compiled.function, compiled.packed_metadata, None, None, None,
            *(self._with_descriptors(tensors) if self._descriptors else tensors), *self._tail,
        )  # fmt: skip

    # The caching allocator hands out the same few addresses; a program of many shapes starts the memory anew.
    MAX_BOUND = 256

    def _with_descriptors(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        """The arguments, with a descriptor for each tensor that the kernel takes so, built once an address."""
        args: list[Any] = list(tensors)
        for i, descriptor in self._descriptors:
            key = i, tensors[i].data_ptr()
            bound = self._bound.get(key)
            if bound is None:
                if len(self._bound) >= self.MAX_BOUND:
                    self._bound.clear()
                bound = self._bound[key] = descriptor.bind(Address(key[1], descriptor.dtype))
            args[i] = bound
        return args

    def _load(self, device: torch.device, aligned: bool) -> Any:
        major, minor = torch.cuda.get_device_capability(device)
        with torch.cuda.device(device):
            compiled = self.compile(major * 10 + minor, aligned)
            compiled._init_handles()
        return compiled


class _Workspaces(threading.local):
    """One tensor for each (device, stream) of a thread."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[int, int], torch.Tensor] = {}


_workspaces = _Workspaces()


def workspace(elements: int, device: torch.device) -> torch.Tensor:
    """float32 scratch memory for kernels that are launched one after the other on the current stream.

    It is kept, and shared by all such pairs of launches: work on one stream runs in its order, and another thread,
    which could launch between the two, has its own. A CUDA graph that is being captured gets memory of its own: it
    may be replayed beside any stream.
    """
    if INTERPRETING or device.index != torch.cuda.current_device() or torch.cuda.is_current_stream_capturing():
        return torch.empty(elements, dtype=torch.float32, device=device)
    key = device.index, torch._C._cuda_getCurrentRawStream(device.index)
    kept = _workspaces.tensors.get(key)
    if kept is None or kept.numel() < elements:
        kept = _workspaces.tensors[key] = torch.empty(elements, dtype=torch.float32, device=device)
    return kept


@dataclasses.dataclass(frozen=True)
class RowTile:
    """Tile of a memory-bound kernel over (pixels, channels): 16-byte accesses, ~8 elements a thread."""

    pixels: int
    channels: int

    @classmethod
    def of(cls, channels: int, elements: int = 1024, widest: int = 256) -> RowTile:
        wide = min(next_power_of_2(channels), widest)
        return cls(max(1, elements // wide), wide)

    def grid(self, pixels: int, channels: int) -> tuple[int, int]:
        return ceil_div(pixels, self.pixels), ceil_div(channels, self.channels)


def needs_int64(*elements: int) -> bool:
    """True if an offset into a tensor of so many elements can pass 32 bits."""
    return max(elements) >= 1 << 31
