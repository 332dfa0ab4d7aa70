"""The problems that `verify` runs: small odd ones for correctness, those of real networks for the race with PyTorch."""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """One problem: the shapes of its tensors (None for an absent one) and its scalar arguments.

    sliced: images are channel slices of wider tensors, the output too where the operator writes into one.
    """

    shapes: tuple[tuple[int, ...] | None, ...]
    params: tuple[Any, ...] = ()
    sliced: bool = False


def conv(
    N: int, C: int, size: int, K: int, kernel: int, stride: int = 1, groups: int = 1, *, dilation: int = 1,
    activation: str | None = None, bias: bool = True, residual: bool = False, sliced: bool = False,
) -> Case:  # fmt: skip
    """A convolution of square images with the padding that keeps their size."""
    padding = dilation * (kernel // 2)
    P = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    shapes = ((N, C, size, size), (K, C // groups, kernel, kernel), (K,) if bias else None,
              (N, K, P, P) if residual else None)  # fmt: skip
    return Case(shapes, (stride, padding, dilation, groups, activation), sliced)


def stem(
    N: int, C: int, size: int, K: int, kernel: int, stride: int, padding: int, pool: tuple[Any, ...],
    activation: str = "relu",
) -> Case:  # fmt: skip
    """A convolution and the max pool behind it."""
    return Case(((N, C, size, size), (K, C, kernel, kernel), (K,), None), ((stride, padding, 1, 1, activation), pool))


IMAGES, LARGE = ((2, 19, 9, 7),), ((8, 64, 112, 112),)

# Odd sizes, ragged channels, strides, slices, one image and none. Each plan runs every case that it can take.
CASES: dict[str, tuple[Case, ...]] = {
    "conv2d": (
        conv(2, 5, 13, 7, 3, activation="relu"),
        conv(1, 3, 37, 64, 7, stride=2, activation="relu"),
        conv(2, 48, 9, 80, 3, groups=2),
        conv(2, 24, 9, 24, 3, stride=2, groups=24, bias=False),
        conv(3, 64, 9, 72, 3, activation="relu"),
        conv(1, 64, 14, 64, 3, residual=True, activation="relu", sliced=True),
        conv(1, 40, 10, 136, 3, stride=2, sliced=True),
        conv(3, 72, 11, 200, 1, residual=True, activation="relu"),
        conv(2, 64, 8, 48, 1, stride=2, bias=False),
        conv(1, 24, 9, 40, 5, activation="tanh"),
        conv(2, 16, 12, 264, 3, dilation=2, activation="relu", sliced=True),
        conv(1, 520, 4, 37, 1, residual=True),
        conv(0, 16, 8, 16, 3),
    ),
    "linear": (
        Case(((3, 83), (37, 83), (37,)), ("relu",)),
        Case(((1, 264), (130, 264), None), (None,)),
        Case(((70, 96), (65, 96), (65,)), ("tanh",)),
    ),
    "local_response_norm": (
        Case(IMAGES, (5, 0.3, 0.75, 1.0)),
        Case(((1, 6, 5, 5),), (4, 1e-2, 0.5, 2.0)),
        Case(((1, 48, 6, 5),), (5, 1e-2, 0.75, 2.0), sliced=True),
    ),
    "lrn_max_pool2d": (
        Case(IMAGES, ((5, 0.3, 0.75, 1.0), (3, 2, 1, 1, True))),
        Case(((1, 48, 9, 9),), ((5, 1e-2, 0.75, 2.0), (3, 2, 0, 1, False))),
    ),
    "conv2d_max_pool2d": (
        stem(2, 1, 32, 6, 5, 1, 0, (2, 2, 0, 1, False), "tanh"),
        stem(1, 3, 63, 37, 11, 4, 2, (3, 2, 0, 1, False)),
        stem(2, 3, 45, 64, 7, 2, 3, (3, 2, 0, 1, True)),
    ),
    "max_pool2d": (Case(IMAGES, (3, 2, 1, 1, True)), Case(((1, 48, 8, 8),), (2, 2, 0, 1, False), sliced=True)),
    "avg_pool2d": (
        Case(IMAGES, (3, 2, 1, True, False, None)),
        Case(((1, 48, 9, 9),), (5, 3, 0, False, True, None), sliced=True),
    ),
    "adaptive_avg_pool2d": (Case(IMAGES, ((3, 2),)), Case(((1, 48, 7, 7),), (1,), sliced=True)),
    "subsample2d": (
        Case((*IMAGES, (19,), (19,)), (2, "sigmoid")),
        Case(((1, 48, 6, 8), (48,), (48,)), (2, "scaled_tanh"), sliced=True),
    ),
    "concat": (Case(((2, 19, 9, 7), (2, 5, 9, 7))), Case(((1, 48, 6, 5), (1, 16, 6, 5)), sliced=True)),
    "add_relu": (Case(IMAGES * 2), Case(((1, 48, 6, 5), (1, 48, 6, 5)), sliced=True)),
    "rbf": (Case(((3, 83), (10, 83))), Case(((1, 84), (10, 84)))),
}  # fmt: skip

# One for each kind of problem that the ledger tells apart (`ledger.kind`), as networks have it: at the batch of a
# single image, of a few, and of many.
RACES: dict[str, tuple[Case, ...]] = {
    "conv2d": (
        conv(1, 3, 112, 32, 3, stride=2), conv(4, 3, 112, 64, 3, activation="relu"),
        conv(32, 3, 224, 64, 7, stride=2, activation="relu"),
        conv(1, 64, 28, 192, 1), conv(8, 64, 56, 64, 1, activation="relu"), conv(32, 64, 56, 256, 1, residual=True),
        conv(1, 1024, 14, 256, 1, activation="relu"), conv(8, 512, 28, 128, 1, activation="relu"),
        conv(32, 256, 56, 64, 1, activation="relu"),
        conv(1, 64, 56, 64, 3, activation="relu"), conv(8, 64, 56, 64, 3, activation="relu"),
        conv(32, 64, 56, 64, 3, activation="relu"),
        conv(1, 256, 14, 256, 3, activation="relu"), conv(32, 256, 14, 256, 3, activation="relu"),
        conv(128, 128, 28, 128, 3, activation="relu"),
        conv(1, 96, 27, 256, 5, groups=2, activation="relu"), conv(8, 256, 28, 256, 3, groups=32, activation="relu"),
        conv(32, 128, 56, 128, 3, groups=32, activation="relu"),
        conv(1, 192, 28, 192, 3, groups=192), conv(8, 192, 28, 192, 3, groups=192),
        conv(32, 192, 56, 192, 3, groups=192),
        conv(1, 64, 27, 192, 5, activation="relu"), conv(8, 32, 28, 96, 5, activation="relu"),
        conv(128, 32, 28, 96, 5, activation="relu"),
        conv(1, 192, 27, 192, 5, activation="relu"), conv(8, 192, 28, 64, 5, activation="relu"),
        conv(128, 192, 28, 64, 5, activation="relu"),
    ),
    "linear": (
        Case(((8, 4096), (1000, 4096), (1000,)), (None,)),
        Case(((256, 4096), (4096, 4096), (4096,)), ("relu",)),
    ),
    "local_response_norm": (
        Case(((1, 96, 55, 55),), (5, 1e-4, 0.75, 2.0)), Case(((32, 96, 55, 55),), (5, 1e-4, 0.75, 2.0)),
    ),
    "lrn_max_pool2d": (
        Case(((1, 96, 55, 55),), ((5, 1e-4, 0.75, 2.0), (3, 2, 0, 1, False))),
        Case(((32, 96, 55, 55),), ((5, 1e-4, 0.75, 2.0), (3, 2, 0, 1, False))),
    ),
    "conv2d_max_pool2d": (
        stem(1, 3, 112, 64, 7, 2, 3, (3, 2, 1, 1, False)), stem(4, 3, 224, 64, 7, 2, 3, (3, 2, 1, 1, False)),
        stem(32, 3, 224, 64, 7, 2, 3, (3, 2, 1, 1, False)),
    ),
    "max_pool2d": (Case(((1, 64, 112, 112),), (3, 2, 1, 1, False)), Case(((32, *LARGE[0][1:]),), (3, 2, 1, 1, False))),
    "avg_pool2d": (
        Case(((8, 512, 14, 14),), (5, 3, 0, False, True, None)),
        Case(((128, 192, 28, 28),), (3, 1, 1, False, True, None)),
    ),
    "adaptive_avg_pool2d": (Case(((8, 2048, 7, 7),), (1,)), Case(((128, 512, 7, 7),), (7,))),
    "subsample2d": (
        Case(((32, 6, 28, 28), (6,), (6,)), (2, "scaled_tanh")),
        Case(((1024, 6, 28, 28), (6,), (6,)), (2, "scaled_tanh")),
    ),
    "concat": (
        Case(((1, 64, 28, 28), (1, 128, 28, 28), (1, 32, 28, 28))),
        Case(((32, 64, 28, 28), (32, 128, 28, 28), (32, 32, 28, 28))),
    ),
    "add_relu": (Case(((1, 256, 56, 56), (1, 256, 56, 56))), Case(((32, 256, 56, 56), (32, 256, 56, 56)))),
    "rbf": (Case(((256, 84), (10, 84))), Case(((1 << 17, 84), (10, 84)))),
}  # fmt: skip
