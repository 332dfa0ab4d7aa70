"""optimize(model, dtype=torch.bfloat16): float32 in and out, bfloat16 between."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcnn
from fastcnn.core import native
from fastcnn.optimize.passes import to_bfloat16

needs_bfloat16 = pytest.mark.skipif(
    bool(to_bfloat16.unavailable()), reason=f"the processor computes in float32: {to_bfloat16.unavailable()}"
)


class Mixed(nn.Module):
    """Residuals, concatenation, pools, a linear layer; softmax and an interpolation, which stay in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.fc = nn.Conv2d(32, 40, 1), nn.Linear(40, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.relu(self.norm(self.a(x)))
        y = F.relu(self.b(y) + y)
        y = torch.cat((F.max_pool2d(y, 2), F.interpolate(F.avg_pool2d(y, 4), scale_factor=2.0)), 1)
        y = F.silu(self.c(y))
        return self.fc(y.mean((2, 3))).softmax(1), y


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


@needs_bfloat16
def test_no_more_error_than_the_model_in_bfloat16() -> None:
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(3, 3, 48, 40)
    fast = fastcnn.optimize(model, dtype=torch.bfloat16)
    with torch.no_grad():
        exact = model.double()(x.double())
        model.float()
        ours = fast(x)
        theirs = Mixed().eval().to(torch.bfloat16)
        theirs.load_state_dict(model.state_dict())
        cast = theirs(x.to(torch.bfloat16))
    for got, wanted, plain in zip(ours, exact, cast, strict=True):
        assert got.dtype is torch.float32
        assert 1e-4 < error(got, wanted) <= 1.2 * error(plain, wanted)
    report = str(fastcnn.explain(fast, x))
    assert "direct_bf16" in report or "direct_amx" in report
    assert x.dtype is torch.float32
    assert all(p.dtype is torch.float32 for p in model.parameters())


@needs_bfloat16
def test_changed_weights_are_followed() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.Linear(64 * 36, 8)).eval(), torch.randn(2, 3, 8, 8)
    fast = fastcnn.optimize(model, dtype=torch.bfloat16)
    with torch.no_grad():
        before = fast(x)
        model[2].weight.mul_(2)
        model[2].bias.mul_(2)
        torch.testing.assert_close(fast(x), 2 * before)


def test_without_the_instructions_float32_stays_and_is_said_once() -> None:
    before = native.extension.cpu.isa()
    model, x = nn.Conv2d(3, 8, 3), torch.randn(1, 3, 9, 9)
    fastcnn.optimize.__globals__["_warn_once"].cache_clear()
    try:
        native.extension.cpu.set_isa("baseline")
        with pytest.warns(UserWarning, match="computes in float32, not in bfloat16"):
            fast = fastcnn.optimize(model, dtype=torch.bfloat16)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fastcnn.optimize(model, dtype=torch.bfloat16)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x))
    finally:
        native.extension.cpu.set_isa(before)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dtype is torch.float16, must be torch.bfloat16, torch.float32 or None"):
        fastcnn.optimize(nn.ReLU(), dtype=torch.float16)
