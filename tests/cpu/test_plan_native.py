"""Plans: sequences of operations over one arena, against PyTorch."""

import os
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from native import DTYPES, nchw, nhwc, problem

from fastcnn import _C


class Builder:
    """A plan of NHWC float32 tensors; keeps the packed weights alive."""

    def __init__(self) -> None:
        self.plan = _C.cpu.Plan()
        self.kept: list[torch.Tensor] = []

    def keep(self, tensor: torch.Tensor) -> int:
        self.kept.append(tensor)
        return tensor.data_ptr()

    def buffer(self, *shape: int) -> int:
        return self.plan.buffer(4 * torch.Size(shape).numel())

    def conv(
        self, layer: torch.nn.Conv2d, shape: tuple[int, ...], x: Any, y: Any, y_stride: int, **options: Any
    ) -> None:
        N, H, W, C = shape
        K, _, R, S = layer.weight.shape
        pad, stride = layer.padding[0], layer.stride[0]
        p = problem(
            "Conv2d",
            dtype=torch.float32,
            activation=options.get("activation", _C.Activation.relu),
            **{"has_bias": 1, "has_residual": int("residual" in options)},
            **{"N": N, "H": H, "W": W, "C": C, "K": K, "R": R, "S": S},
            **{"P": (H + 2 * pad - R) // stride + 1, "Q": (W + 2 * pad - S) // stride + 1},
            **{"stride_h": stride, "stride_w": stride, "pad_h": pad, "pad_w": pad},
            **{"dilation_h": 1, "dilation_w": 1, "groups": 1},
            **{"x_stride": C, "y_stride": y_stride, "residual_stride": y_stride},
        )
        conv = _C.cpu.Conv2d(p, "direct")
        packed = torch.empty(conv.packed_bytes, dtype=torch.uint8)
        weight = layer.weight.detach().contiguous()
        conv.pack(weight.data_ptr(), packed.data_ptr())
        bias = self.keep(layer.bias.detach())
        self.plan.conv2d(conv, x, self.keep(packed), _C.cpu.WeightForm.packed, bias, options.get("residual"), y)


def run(plan: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor], threads: int = 2) -> None:
    arena = torch.full((plan.arena_bytes,), 0xFF, dtype=torch.uint8)  # NaN in every dtype
    plan.run([x.data_ptr() for x in inputs], [y.data_ptr() for y in outputs], arena.data_ptr(), threads)


def small_network() -> tuple[Any, Any]:
    """A stem, a pool, two branches into one concatenation, a residual block, global pool, linear."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 20, 5, 2, 2), torch.nn.Conv2d(20, 17, 1), torch.nn.Conv2d(20, 16, 3, 1, 1)]
    layers += [torch.nn.Conv2d(33, 33, 3, 1, 1)]
    classifier = torch.nn.Linear(33, 10)
    b = Builder()
    plan = b.plan
    x, y = plan.input(4 * 2 * 3 * 30 * 30), plan.output(4 * 2 * 10)
    image, stem, pooled = b.buffer(2, 30, 30, 3), b.buffer(2, 15, 15, 20), b.buffer(2, 7, 7, 20)
    wide, block, mean = b.buffer(2, 7, 7, 33), b.buffer(2, 7, 7, 33), b.buffer(2, 33)
    plan.to_channels_last(problem("Layout", element_size=4, N=2, H=30, W=30, C=3, pixel_stride=3), x, image)
    b.conv(layers[0], (2, 30, 30, 3), image, stem, 20)
    window = {"kernel_h": 3, "kernel_w": 3, "stride_h": 2, "stride_w": 2, "dilation_h": 1, "dilation_w": 1}
    shape = {"N": 2, "H": 15, "W": 15, "C": 20, "P": 7, "Q": 7, "x_stride": 20, "y_stride": 20}
    plan.pool2d(problem("Pool2d", dtype=torch.float32, mode=_C.PoolMode.max, **shape, **window), stem, pooled)
    b.conv(layers[1], (2, 7, 7, 20), pooled, (wide, 0), 33)
    b.conv(layers[2], (2, 7, 7, 20), pooled, (wide, 4 * 17), 33)
    b.conv(layers[3], (2, 7, 7, 33), wide, block, 33, residual=wide)
    shape = {"N": 2, "H": 7, "W": 7, "C": 33, "P": 1, "Q": 1, "x_stride": 33, "y_stride": 33}
    plan.adaptive_avg_pool2d(problem("AdaptiveAvgPool2d", dtype=torch.float32, **shape), block, mean)
    fields = {"has_bias": 1, "N": 2, "D": 33, "M": 10, "x_stride": 33, "weight_stride": 33, "y_stride": 10}
    linear = problem("Linear", dtype=torch.float32, weight_dtype=torch.float32, **fields)
    plan.linear(linear, mean, b.keep(classifier.weight.detach()), b.keep(classifier.bias.detach()), y)
    plan.finalize()

    @torch.no_grad()
    def reference(x: torch.Tensor) -> torch.Tensor:
        a = F.max_pool2d(layers[0](x).relu(), 3, 2)
        a = torch.cat([layers[1](a).relu(), layers[2](a).relu()], 1)
        a = (a + layers[3](a)).relu()
        return classifier(a.mean((2, 3)))

    plan_and_weights = (plan, b.kept)
    return plan_and_weights, reference


def test_small_network(isa: str) -> None:
    (plan, _kept), reference = small_network()
    for threads in (1, 2, 4):
        x, y = torch.randn(2, 3, 30, 30), torch.empty(2, 10)
        run(plan, [x], [y], threads)
        torch.testing.assert_close(y, reference(x), rtol=1e-4, atol=1e-5)


def test_buffers_share_memory_only_when_they_do_not_live_together() -> None:
    (plan, _kept), _ = small_network()
    separate = 4 * (2 * 30 * 30 * 3 + 2 * 15 * 15 * 20 + 2 * 7 * 7 * (20 + 33 + 33) + 2 * 33)
    stem = 4 * (2 * 30 * 30 * 3 + 2 * 15 * 15 * 20)  # these two live together: a lower bound
    assert stem <= plan.arena_bytes < 0.75 * separate


def test_describe() -> None:
    (plan, _kept), _ = small_network()
    rows = plan.describe()
    assert [row[0] for row in rows] == ["to_channels_last", "conv2d", "max_pool2d"] + 3 * ["conv2d"] + [
        "adaptive_avg_pool2d",
        "linear",
    ]
    _, kernel, shape, gflop, size = rows[1]
    assert (kernel, shape) == ("direct", "2x30x30x3 * 20x5x5")
    assert gflop == pytest.approx(2e-9 * 2 * 15 * 15 * 20 * 75)
    assert size >= 4 * (2 * 30 * 30 * 3 + 2 * 15 * 15 * 20 + 20 * 75)


def test_several_python_threads() -> None:
    (plan, _kept), reference = small_network()
    wrong: list[str] = []

    def work(seed: int) -> None:
        x, y = torch.randn(2, 3, 30, 30, generator=torch.Generator().manual_seed(seed)), torch.empty(2, 10)
        expected = reference(x)
        for _ in range(100):
            y.fill_(7)
            run(plan, [x], [y], 1 + seed % 3)
            if not torch.allclose(y, expected, rtol=1e-4, atol=1e-5):
                wrong.append(f"thread {seed}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_after_fork() -> None:
    (plan, _kept), _reference = small_network()
    x, y = torch.randn(2, 3, 30, 30), torch.empty(2, 10)
    run(plan, [x], [y], 3)  # the pool has threads now; the child has none of them
    expected, arena = y.tolist(), torch.empty(plan.arena_bytes, dtype=torch.uint8)
    y.zero_()
    child = os.fork()
    if child == 0:  # nothing of torch's that uses its own threads, which do not survive
        plan.run([x.data_ptr()], [y.data_ptr()], arena.data_ptr(), 3)
        os._exit(0 if y.tolist() == expected else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


ONE_OPERAND = {
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scaled_tanh": lambda a: 1.7159 * torch.tanh(2 / 3 * a),
    "silu": F.silu,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [*ONE_OPERAND, "add", "scale_channels"])
def test_elementwise(isa: str, dtype: torch.dtype, function: str) -> None:
    a = (4 * torch.randn(2, 3, 5, 37)).to(dtype)
    a[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), 0])
    b, y = torch.randn(a.shape).to(dtype), torch.empty_like(a)
    expected = a.double() + b.double()
    if function == "scale_channels":
        b = torch.randn(2, 1, 1, 37).to(dtype)
        expected = a.double() * b.double()
    if function in ONE_OPERAND:
        expected = ONE_OPERAND[function](a.double())
    fields = {"pixels": 30, "C": 37, "a_stride": 37, "b_stride": 37, "y_stride": 37, "pixels_per_image": 15}
    p = problem("Elementwise", dtype=dtype, function=getattr(_C.Elementwise, function), **fields)
    _C.cpu.elementwise(p, 2)(a, b, y)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), expected, rtol=2 * eps, atol=eps / 8, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "stride"), [((2, 3, 33, 37), 3), ((1, 1, 28, 28), 1), ((3, 50, 7, 7), 64)])
def test_layouts(dtype: torch.dtype, shape: tuple[int, ...], stride: int) -> None:
    N, C, H, W = shape
    x = torch.randn(shape).to(dtype)
    p = problem("Layout", element_size=x.element_size(), N=N, H=H, W=W, C=C, pixel_stride=stride)
    wide = torch.full((N, H, W, stride), 5, dtype=dtype)
    _C.cpu.to_channels_last(p, 2)(x, wide)
    assert torch.equal(wide[..., :C], nhwc(x))
    assert (wide[..., C:] == 5).all()
    back = torch.empty_like(x)
    _C.cpu.to_channels_first(p, 2)(wide, back)
    assert torch.equal(back, nchw(wide[..., :C]))


def test_slices_of_a_batch() -> None:
    """A plan made for two images runs a batch of ten; each thread has an arena."""
    plan = _C.cpu.Plan()
    p = problem("CopySlice", element_size=4, pixels=6, C=8, x_stride=8, y_stride=8)
    x, y, between = plan.input(192), plan.output(192), plan.buffer(192)
    plan.copy_slice(p, x, between)
    relu = problem("Elementwise", dtype=torch.float32, function=_C.Elementwise.relu, pixels=6, C=8)
    relu.a_stride = relu.y_stride = 8
    plan.elementwise(relu, between, None, y)
    plan.finalize(slices=5)
    for threads in (1, 2, 3):
        a, b = torch.randn(10, 3, 8), torch.full((10, 3, 8), torch.nan)
        guarded = torch.full((threads * plan.arena_bytes + 64,), 0xFF, dtype=torch.uint8)
        plan.run([a.data_ptr()], [b.data_ptr()], guarded.data_ptr(), threads)
        assert torch.equal(b, a.relu())
        assert (guarded[-64:] == 0xFF).all(), "wrote beyond the arenas"
    with pytest.raises(ValueError, match="slices is 0, must be at least 1"):
        _C.cpu.Plan().finalize(slices=0)


def test_misuse_is_refused() -> None:
    plan = _C.cpu.Plan()
    p = problem("CopySlice", element_size=4, pixels=10, C=8, x_stride=8, y_stride=8)
    x, small = plan.input(320), plan.output(300)
    with pytest.raises(ValueError, match="y takes bytes 0 to 320 of buffer 1, which has 300"):
        plan.copy_slice(p, x, small)
    with pytest.raises(ValueError, match="x takes bytes 4 to 324 of buffer 0, which has 320"):
        plan.copy_slice(p, (x, 4), x)
    with pytest.raises(ValueError, match="x is in buffer 9, there are 2"):
        plan.copy_slice(p, 9, x)
    with pytest.raises(ValueError, match="concat 10x8: it has 2 operands, 1 were given"):
        plan.copy_slice(p, x)
    linear = problem("Linear", dtype=torch.float32, weight_dtype=torch.float32, N=1, D=8, M=4, has_bias=1)
    linear.x_stride, linear.weight_stride, linear.y_stride = 8, 8, 4
    with pytest.raises(ValueError, match=r"linear 1x8 . 4: the address of weight is 0"):
        plan.linear(linear, x, 0, 0, small)
    with pytest.raises(ValueError, match=r"linear 1x8 . 4: the address of bias is 0"):
        plan.linear(linear, x, 64, None, small)
    with pytest.raises(ValueError, match="not finalized"):
        plan.run([0], [0], 0, 1)
    plan.finalize()
    with pytest.raises(ValueError, match="0 inputs, it has 1"):
        plan.run([], [0], 0, 1)
    with pytest.raises(ValueError, match="the address of input 0 is 0"):
        plan.run([0], [0], 0, 1)
    with pytest.raises(ValueError, match="finalized, it cannot change"):
        plan.buffer(3)
