"""The native CPU linear layer, under every instruction set, against float64."""

import pytest
import torch
import torch.nn.functional as F

from fastcnn import _C

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ACTIVATIONS = {
    "none": lambda a: a,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scaled_tanh": lambda a: 1.7159 * torch.tanh(2 / 3 * a),
}
# N, D, M, bias, activation, row padding
CASES = [
    (1, 9, 10, True, "none", 0),
    (1, 400, 120, True, "scaled_tanh", 0),
    (1, 4000, 1000, True, "relu", 0),
    (0, 12, 7, True, "none", 0),
    (3, 1, 1, False, "sigmoid", 4),
    (5, 33, 17, True, "tanh", 5),
    (7, 257, 65, False, "relu", 3),
    (64, 120, 84, True, "relu", 1),
    (230, 31, 50, True, "none", 2),
    (4, 0, 5, True, "none", 0),
]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@pytest.fixture(params=_C.cpu.isas())
def isa(request: pytest.FixtureRequest):
    before = _C.cpu.isa()
    _C.cpu.set_isa(request.param)
    yield request.param
    _C.cpu.set_isa(before)


def linear(x, weight, bias, activation, y, weight_dtype=torch.float32, threads=2):
    problem = _C.LinearProblem()
    problem.dtype = getattr(_C.DType, name_of(x.dtype))
    problem.activation = getattr(_C.Activation, activation)
    problem.has_bias = int(bias is not None)
    problem.N, problem.D = x.shape
    problem.M = weight.shape[0]
    problem.x_stride, problem.y_stride = x.stride(0), y.stride(0)
    native = _C.cpu.Linear(problem, getattr(_C.DType, name_of(weight_dtype)))
    packed = torch.full((native.packed_bytes + 64,), 0x7F, dtype=torch.uint8)
    native.pack(weight.data_ptr(), packed.data_ptr())
    assert (packed[native.packed_bytes :] == 0x7F).all()
    bias_address = 0 if bias is None else bias.data_ptr()
    native.run(x.data_ptr(), packed.data_ptr(), bias_address, y.data_ptr(), threads)
    return native


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_against_float64(isa: str, dtype: torch.dtype) -> None:
    for n, d, m, has_bias, activation, pad in CASES:
        torch.manual_seed(n + d + m)
        x = torch.full((n, d + pad), float("nan"), dtype=dtype)[:, :d]
        x.copy_(torch.randn(n, d))
        weight = torch.randn(m, d) * max(d, 1) ** -0.5
        bias = torch.randn(m) if has_bias else None
        wide = torch.full((n, m + pad), 777.0, dtype=dtype)
        y = wide[:, :m]
        linear(x, weight, bias, activation, y)
        assert (wide[:, m:] == 777).all(), "wrote beyond the row"
        act = ACTIVATIONS[activation]
        exact = act(F.linear(x.double(), weight.double(), None if bias is None else bias.double()))
        if not exact.numel():
            continue
        theirs = act(F.linear(x, weight.to(dtype), None if bias is None else bias.to(dtype)))
        allowed = 2 * float((theirs.double() - exact).abs().max())
        allowed += torch.finfo(dtype).eps * max(1.0, float(exact.abs().max()))
        assert float((y.double() - exact).abs().max()) <= allowed, (n, d, m, activation)


@pytest.mark.parametrize("weight_dtype", DTYPES[1:], ids=name_of)
@pytest.mark.parametrize("n", [1, 9])
def test_16_bit_weights_round_only_the_weights(isa: str, weight_dtype: torch.dtype, n: int) -> None:
    torch.manual_seed(n)
    x, weight, bias = torch.randn(n, 301), torch.randn(75, 301) / 17, torch.randn(75)
    y = torch.empty(n, 75)
    native = linear(x, weight, bias, "relu", y, weight_dtype)
    assert native.packed_bytes <= 2 * 301 * 80
    exact = F.linear(x.double(), weight.to(weight_dtype).double(), bias.double()).relu()
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5)


def test_nan_and_infinity_stay_in_their_row(isa: str) -> None:
    x, weight = torch.randn(8, 40), torch.randn(30, 40)
    x[2, 7], x[5, 0] = float("nan"), float("inf")
    y = torch.empty(8, 30)
    linear(x, weight, None, "relu", y)
    expected = F.linear(x, weight).relu()
    assert torch.equal(y.isnan(), expected.isnan())
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_bad_problems_are_refused() -> None:
    x, weight, y = torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(2, 4)
    with pytest.raises(ValueError, match="y_stride is 4, must be at least 5"):
        linear(x, torch.zeros(5, 3), None, "none", y)
    problem = _C.LinearProblem()
    problem.N, problem.D, problem.M, problem.has_bias = 2, 3, 4, 1
    problem.x_stride, problem.y_stride = 3, 4
    with pytest.raises(ValueError, match="the problem has a bias, its address is 0"):
        _C.cpu.Linear(problem).run(x.data_ptr(), weight.data_ptr(), 0, y.data_ptr(), 1)
