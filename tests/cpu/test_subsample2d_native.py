import pytest
import torch
from native import DTYPES, Slice, assert_as_accurate, nchw, nhwc, pixel_stride, problem, sliced

from fastcnn import _C

ACTIVATIONS = {
    "none": lambda a: a,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scaled_tanh": lambda a: 1.7159 * torch.tanh(2 / 3 * a),
}


def reference(x, coefficient, bias, size: int, activation: str) -> torch.Tensor:
    sums = torch.nn.functional.avg_pool2d(nchw(x), size, divisor_override=1)
    return ACTIVATIONS[activation](nhwc(sums) * coefficient + bias)


def run(x: torch.Tensor, coefficient, bias, size: int, activation: str, y: torch.Tensor, threads: int = 3) -> None:
    N, H, W, C = x.shape
    p = problem(
        "Subsample2d",
        dtype=x.dtype,
        activation=getattr(_C.Activation, activation),
        **{"N": N, "H": H, "W": W, "C": C, "P": H // size, "Q": W // size, "kernel_size": size},
        x_stride=pixel_stride(x),
        y_stride=pixel_stride(y),
    )
    _C.cpu.subsample2d(p, threads)(x, coefficient, bias, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize(("shape", "size"), [((2, 28, 28, 6), 2), ((1, 11, 9, 33), 3), ((3, 10, 10, 15), 2)])
def test_matches_pytorch(isa, dtype, activation, shape, size, gaps) -> None:
    x = torch.randn(shape).to(dtype)
    x = sliced(x) if gaps else x
    coefficient, bias = torch.randn(2, shape[-1])
    out = Slice((shape[0], shape[1] // size, shape[2] // size, shape[3]), dtype, *(() if gaps else (0, 0)))
    run(x, coefficient, bias, size, activation, out.data)
    theirs = reference(x, coefficient.to(dtype), bias.to(dtype), size, activation)
    exact = reference(x.double(), coefficient.double(), bias.double(), size, activation)
    assert_as_accurate(out.data, theirs, exact)
    out.assert_neighbours_untouched()


def test_batch_of_none(isa: str) -> None:
    x, y = torch.empty(0, 4, 4, 8), torch.empty(0, 2, 2, 8)
    run(x, torch.ones(8), torch.ones(8), 2, "tanh", y)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "scaled_tanh"])
def test_activations_on_the_whole_line(isa: str, activation: str) -> None:
    a = torch.cat([torch.linspace(-110, 110, 100_001), torch.logspace(-40, 2, 10_001), torch.linspace(-1, 1, 99_999)])
    a = torch.cat([a, torch.tensor([0.0, 0.625, -0.625, 3e38, -3e38, torch.inf, -torch.inf, torch.nan])])
    x, y = a.reshape(-1, 1, 1, 1), torch.empty(len(a), 1, 1, 1)
    run(x, torch.ones(1), torch.zeros(1), 1, activation, y)
    theirs, exact = ACTIVATIONS[activation](a), ACTIVATIONS[activation](a.double())
    ours = y.flatten()
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.signbit()[:-1], theirs.signbit()[:-1])
    error = (ours.double() - exact).abs().nan_to_num()
    assert (error <= 4 * 2**-24 * exact.abs().nan_to_num() + 1.2e-38).all()
