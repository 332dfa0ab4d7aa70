"""The problems by which conv2d is tried, and those timed against PyTorch."""

from __future__ import annotations

from fastcnn.core.cases import Case


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


# Odd sizes, ragged channels, strides, slices, one image and none. Each plan runs every case that it can take.
CASES = (
    conv(2, 5, 13, 7, 3, activation="relu"),
    conv(2, 4, 9, 6, 3, stride=2, groups=2, residual=True, activation="relu"),
    conv(1, 3, 37, 64, 7, stride=2, activation="relu"),
    conv(2, 48, 9, 80, 3, groups=2),
    conv(2, 24, 9, 24, 3, stride=2, groups=24, bias=False),
    conv(2, 32, 9, 32, 3, groups=8, residual=True, activation="relu", sliced=True),
    conv(3, 64, 9, 72, 3, activation="relu"),
    conv(1, 64, 14, 64, 3, residual=True, activation="relu", sliced=True),
    conv(1, 40, 10, 136, 3, stride=2, sliced=True),
    conv(3, 72, 11, 200, 1, residual=True, activation="relu"),
    conv(2, 64, 8, 48, 1, stride=2, bias=False),
    conv(1, 24, 9, 40, 5, activation="tanh"),
    conv(2, 16, 12, 264, 3, dilation=2, activation="relu", sliced=True),
    conv(1, 520, 4, 37, 1, residual=True),
    conv(0, 16, 8, 16, 3),
)  # fmt: skip
# One for each kind of problem that the ledger tells apart, as networks have it.
RACES = (
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
)  # fmt: skip
