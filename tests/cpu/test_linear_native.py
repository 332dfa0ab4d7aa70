"""The native CPU linear layer, under every instruction set, against float64."""

import pytest
import torch
import torch.nn.functional as F
from native import DTYPES, Slice, assert_as_accurate, problem, sliced

from fastcnn import _C

ACTIVATIONS = {
    "none": lambda a: a,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scaled_tanh": lambda a: 1.7159 * torch.tanh(2 / 3 * a),
}
# N, D, M, bias, activation, elements between one row of x, weight and y and the next
CASES = [
    (1, 9, 10, True, "none", 0),
    (1, 400, 120, True, "scaled_tanh", 0),
    (1, 4000, 1000, True, "relu", 0),
    (0, 12, 7, True, "none", 0),
    (3, 1, 1, False, "sigmoid", 4),
    (5, 33, 17, True, "tanh", 5),
    (6, 515, 131, True, "none", 3),  # streams, the last of them shorter
    (7, 257, 65, False, "relu", 3),
    (11, 1100, 70, True, "relu", 1),  # streams in blocks of depth
    (64, 120, 84, True, "relu", 1),
    (70, 1601, 67, True, "none", 7),  # blocks of depth, and of rows where L2 is small
    (230, 31, 50, True, "none", 2),
    (4, 0, 5, True, "none", 0),
    (2, 8, 0, False, "none", 0),
]


def linear(x, weight, bias, activation, y, threads=2):
    native = problem(
        "Linear",
        dtype=x.dtype,
        weight_dtype=weight.dtype,
        activation=getattr(_C.Activation, activation),
        has_bias=int(bias is not None),
        N=x.shape[0],
        D=x.shape[1],
        M=weight.shape[0],
        x_stride=x.stride(0),
        weight_stride=weight.stride(0),
        y_stride=y.stride(0),
    )
    _C.cpu.linear(native, threads)(x, weight, bias, y)


def case(n, d, m, has_bias, pad, dtype, weight_dtype):
    """Operands as slices of tensors whose other elements are NaN."""
    torch.manual_seed(n + d + m)
    x = sliced(torch.randn(n, d).to(dtype), pad, pad // 2)
    weight = sliced((torch.randn(m, d) * max(d, 1) ** -0.5).to(weight_dtype), pad, pad // 2)
    return x, weight, torch.randn(m) if has_bias else None, Slice((n, m), dtype, pad, pad // 2)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_against_float64(isa: str, dtype: torch.dtype, threads: int) -> None:
    for n, d, m, has_bias, activation, pad in CASES:
        x, weight, bias, y = case(n, d, m, has_bias, pad, dtype, dtype)
        linear(x, weight, bias, activation, y.data, threads)
        y.assert_neighbours_untouched()
        if y.data.numel():
            act = ACTIVATIONS[activation]
            exact = act(F.linear(x.double(), weight.double(), None if bias is None else bias.double()))
            # Whole tensors: PyTorch's bfloat16 product on AMX multiplies what lies beside a slice, and it is NaN here.
            theirs = act(F.linear(x.contiguous(), weight.contiguous(), None if bias is None else bias.to(dtype)))
            # PyTorch has the processor's widest registers: more partial sums, each of fewer terms, round less.
            assert_as_accurate(y.data, theirs, exact, units=4 if isa == "baseline" else 1)


@pytest.mark.parametrize("weight_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_of_another_dtype_are_widened(isa: str, dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    for n, d, m, has_bias, activation, pad in CASES[:11]:
        x, weight, bias, y = case(n, d, m, has_bias, pad, dtype, weight_dtype)
        linear(x, weight, bias, activation, y.data)
        exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
        exact = ACTIVATIONS[activation](exact)
        tolerance = 1e-5 + torch.finfo(dtype).eps
        torch.testing.assert_close(y.data.double(), exact, rtol=tolerance, atol=tolerance)


def test_rounding_does_not_grow_with_depth(isa: str) -> None:
    torch.manual_seed(0)
    x, weight = torch.rand(3, 25088), torch.rand(9, 25088)
    y = torch.empty(3, 9)
    linear(x, weight, None, "none", y)
    assert_as_accurate(y, F.linear(x, weight), F.linear(x.double(), weight.double()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 8])
def test_nan_and_infinity_stay_in_their_row(isa: str, dtype: torch.dtype, n: int) -> None:
    x, weight = torch.randn(n, 340).to(dtype), torch.randn(30, 340).to(dtype)
    x[n // 2, 7], x[0, 339], weight[29, 5] = float("nan"), float("inf"), float("inf")
    y = torch.empty(n, 30, dtype=dtype)
    linear(x, weight, None, "relu", y)
    expected = F.linear(x, weight).relu()
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())
