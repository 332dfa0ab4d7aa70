"""Convolutions by tiles of AMX: the same bits in every batch and on any threads, beside oneDNN, which has tiles too."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from native import problem
from torch import Tensor

from fastcnn import _C

pytestmark = pytest.mark.skipif("amx" not in _C.cpu.isas(), reason="needs a processor with AMX")

Convolution = Callable[[Tensor, int], Tensor]  # of an NHWC image, on so many threads

# H, W, C, K, kernel, stride, padding: the first is read in place, the others' windows are gathered, the last but one
# has few rows and many weights, whose panels threads share.
SHAPES = [
    (9, 7, 128, 96, 1, 1, 0),
    (9, 7, 37, 70, 3, 1, 1),
    (23, 19, 3, 17, 7, 2, 3),
    (3, 5, 192, 320, 3, 2, 1),
    (1, 1, 5, 1, 1, 1, 0),
]


@pytest.fixture(autouse=True)
def isa() -> Iterator[None]:
    before = _C.cpu.isa()
    _C.cpu.set_isa("amx")
    yield
    _C.cpu.set_isa(before)


def sizes(x: Tensor, shape: tuple[int, ...]) -> dict[str, int]:
    H, W, C, K, kernel, stride, pad = shape
    P, Q = ((size + 2 * pad - kernel) // stride + 1 for size in (H, W))
    return {
        "N": x.shape[0], "H": H, "W": W, "C": C, "K": K, "R": kernel, "S": kernel, "P": P, "Q": Q,
        "stride_h": stride, "stride_w": stride, "pad_h": pad, "pad_w": pad, "dilation_h": 1, "dilation_w": 1,
        "groups": 1, "x_stride": C, "y_stride": K,
    }  # fmt: skip


def packed(conv: object, *tensors: Tensor, **options: int) -> Tensor:
    memory = torch.empty(conv.packed_bytes, dtype=torch.uint8)
    conv.pack(*(t.data_ptr() for t in tensors), memory.data_ptr(), **options)
    return memory


def of_bfloat16(shape: tuple[int, ...]) -> tuple[Convolution, Callable[[int], Tensor]]:
    H, W, C, K, kernel, _, _ = shape
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(K, C, kernel, kernel, generator=generator) / (C * kernel * kernel) ** 0.5
    bias = torch.randn(K, generator=generator)

    def run(x: Tensor, threads: int) -> Tensor:
        at = sizes(x, shape)
        struct = problem("Conv2d", **at, dtype=torch.bfloat16, has_bias=1, activation=_C.Activation.relu)
        conv = _C.cpu.Conv2d(struct, "direct_amx")
        y = torch.full((at["N"], at["P"], at["Q"], K), 9.0, dtype=torch.bfloat16)
        conv.bound(threads)(x, packed(conv, weight, threads=threads), bias, None, y)
        return y

    return run, lambda n: torch.randn(n, H, W, C, generator=generator).bfloat16()


def of_bytes(shape: tuple[int, ...]) -> tuple[Convolution, Callable[[int], Tensor]]:
    H, W, C, K, kernel, _, _ = shape
    generator = torch.Generator().manual_seed(1)
    weight = torch.randint(-127, 128, (K, C, kernel, kernel), generator=generator, dtype=torch.int8)
    bias = torch.randint(-30000, 30000, (K,), generator=generator, dtype=torch.int32)
    multiplier = torch.rand(K, generator=generator) * 0.02 / (C * kernel * kernel) ** 0.5

    def run(x: Tensor, threads: int) -> Tensor:
        at = sizes(x, shape)
        conv = _C.cpu.Int8Conv2d(problem("Int8Conv2d", **at, x_zero=7, y_zero=128, low=0, high=255), "amx")
        y = torch.full((at["N"], at["P"], at["Q"], K), 9, dtype=torch.uint8)
        conv.bound(threads)(x, packed(conv, weight, bias, multiplier), None, y)
        return y

    return run, lambda n: torch.randint(0, 256, (n, H, W, C), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("make", [of_bfloat16, of_bytes])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_depend_on_neither_batch_nor_threads(shape: tuple[int, ...], make: Callable) -> None:
    run, images = make(shape)
    x = images(9)
    one_by_one = torch.cat([run(x[i : i + 1], 1) for i in range(9)])
    assert one_by_one.unique().numel() > 1
    for batch in range(10):
        for threads in (1, 2, 3):
            assert torch.equal(run(x[:batch], threads), one_by_one[:batch]), (batch, threads)


@pytest.mark.parametrize("make", [of_bfloat16, of_bytes])
def test_tiles_are_left_as_onednn_needs_them(make: Callable) -> None:
    """Each configures its tiles in the same threads: neither may find the other's."""
    run, images = make(SHAPES[1])
    x = images(3)
    theirs = torch.randn(2, 64, 14, 14).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3).bfloat16()
    expected, their_expected = run(x, 2), F.conv2d(theirs, weight, padding=1)
    for _ in range(20):
        assert torch.equal(run(x, 2), expected)
        assert torch.equal(F.conv2d(theirs, weight, padding=1), their_expected)
