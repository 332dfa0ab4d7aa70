"""The bounds that docs/numerics.md derives, against float64."""

import pytest
import torch
import torch.nn.functional as F
from native import nchw, problem

from fastcnn import _C

U = 2.0**-24  # float32


@pytest.mark.parametrize("name", ["direct", "staged"])
@pytest.mark.parametrize(("C", "K", "R"), [(3, 8, 7), (64, 70, 1), (513, 33, 3), (2048, 20, 1)])
def test_direct_convolutions(isa: str, name: str, C: int, K: int, R: int) -> None:
    """|y - exact| <= (n + 3) u (sum |x| |w| + |bias| + |residual|), n = min(D, 511) + D / 256."""
    H, D = 17, C * R * R
    generator = torch.Generator().manual_seed(C)
    x = torch.rand(1, H, H, C, generator=generator) + 0.5  # of one sign: nothing cancels
    weight, bias = torch.rand(K, C, R, R, generator=generator), torch.randn(K, generator=generator)
    residual = torch.randn(1, H - R + 1, H - R + 1, K, generator=generator)
    P = H - R + 1
    struct = problem(
        "Conv2d", dtype=torch.float32, N=1, H=H, W=H, C=C, K=K, R=R, S=R, P=P, Q=P, stride_h=1, stride_w=1,
        dilation_h=1, dilation_w=1, groups=1, x_stride=C, y_stride=K, residual_stride=K, has_bias=1, has_residual=1,
    )  # fmt: skip
    conv = _C.cpu.Conv2d(struct, name)
    packed = torch.empty(conv.packed_bytes, dtype=torch.uint8)
    conv.pack(weight.data_ptr(), packed.data_ptr())
    y = torch.empty(1, P, P, K)
    conv.bound(2)(x, packed, bias, residual, y)

    sums = F.conv2d(nchw(x).double(), weight.double()).permute(0, 2, 3, 1)
    exact = sums + bias.double() + residual.double()
    magnitude = sums + bias.double().abs() + residual.double().abs()
    n = min(D, 511) + D // 256
    assert ((y.double() - exact).abs() <= (n + 3) * U * magnitude).all()
