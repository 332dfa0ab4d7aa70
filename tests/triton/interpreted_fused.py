"""Fused blocks in Triton's interpreter, against PyTorch and float64. Run by test_interpreter.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from parity import DTYPES, Slice, check

import fastcnn
from fastcnn import ops
from fastcnn.ops.conv2d.triton_fused import MaxPoolConv1x1, MergedConv1x1
from fastcnn.ops.triton_common import TARGETS


def conv_problem(x, weight, bias, out, activation="relu"):
    tensors = (x, weight, bias, None)
    return ops.conv2d.infer((*tensors, out), ops.conv2d.normalise(tensors, (1, 0, 1, 1, activation)))


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "h", "w", "c", "channels"),
    [(1, 7, 6, 24, (40, 24, 8)), (2, 4, 4, 33, (70, 5)), (1, 3, 3, 16, (16,)), (1, 5, 5, 8, (1, 2, 3, 4)),
     (0, 4, 4, 8, (8, 8))],
)  # fmt: skip
def test_merged_conv1x1(n, h, w, c, channels, dtype):
    """Every destination gets its own convolution, its own activation and nothing of its neighbours."""
    x = Slice(n, h, w, c, dtype, before=8, after=3, seed=1)
    wide = Slice(n, h, w, channels[0], dtype, before=8, after=5)
    ys = [wide, *[Slice(n, h, w, k, dtype) for k in channels[1:]]]
    weights = [(normal(k, k, c, 1, 1) / c**0.5).to(dtype) for k in channels]
    biases = [normal(k + 1, k).to(dtype) if k != channels[-1] else None for k in channels]
    activations = ["relu" if i != 1 else None for i in range(len(channels))]
    merged = MergedConv1x1(
        [conv_problem(x.nchw, *rest) for rest in zip(weights, biases, [y.nchw for y in ys], activations, strict=True)],
        TARGETS[90],
        allow_tf32=False,
    )
    merged(x.nchw, *merged.pack(weights, biases), *[y.nchw for y in ys])
    for y, weight, bias, activation in zip(ys, weights, biases, activations, strict=True):
        inputs = [t for t in (x.nchw, weight, bias) if t is not None]
        act = torch.relu if activation else (lambda a: a)
        if n:
            check(y.nchw, lambda x, w, b=None, act=act: act(F.conv2d(x, w, b)), *inputs, floor_scale=8)
        y.assert_neighbours_kept()


def test_merged_conv1x1_refuses_what_it_cannot_merge():
    x, weight = torch.randn(1, 8, 4, 4), torch.randn(8, 8, 1, 1)
    one = conv_problem(x, weight, None, None)
    with pytest.raises(ValueError, match="5 convolutions"):
        MergedConv1x1([one] * 5, TARGETS[90])
    with pytest.raises(ValueError, match="not a plain 1x1"):
        MergedConv1x1([one._replace(stride=(2, 2))], TARGETS[90])
    with pytest.raises(ValueError, match="another input"):
        MergedConv1x1([one, one._replace(C=4)], TARGETS[90])
    with pytest.raises(ValueError, match="activations"):
        MergedConv1x1([one, one._replace(activation="tanh")], TARGETS[90])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "h", "w", "c", "k", "window"),
    [(2, 5, 6, 40, 24, 3), (1, 4, 4, 7, 130, 3), (1, 1, 1, 16, 16, 3), (1, 6, 5, 8, 8, 5), (0, 4, 4, 8, 8, 3)],
)
@pytest.mark.parametrize("special", [False, True])
def test_max_pool_conv1x1(n, h, w, c, k, window, dtype, special):
    x = Slice(n, h, w, c, dtype, before=8, after=3, seed=1)
    if special and n:
        x.nhwc[0, 0, 0, c // 2] = float("nan")
    y = Slice(n, h, w, k, dtype, before=3, after=8)
    weight, bias = (normal(2, k, c, 1, 1) / c**0.5).to(dtype), normal(3, k).to(dtype)
    conv = MaxPoolConv1x1(conv_problem(x.nchw, weight, bias, y.nchw), window, TARGETS[90], allow_tf32=False)
    conv(x.nchw, conv.pack(weight), bias.float(), y.nchw)

    def reference(x, weight, bias):
        return torch.relu(F.conv2d(F.max_pool2d(x, window, 1, window // 2), weight, bias))

    if n:
        check(y.nchw, reference, x.nchw, weight, bias, floor_scale=8)
    y.assert_neighbours_kept()


@pytest.mark.parametrize("dtype", DTYPES)
def test_inception_block(dtype):
    """A whole Inception block: four branches written into one tensor, three launches of it fused."""
    channels = {"1x1": 16, "reduce3": 24, "3x3": 32, "reduce5": 8, "5x5": 8, "pool": 8}
    c, h, w = 24, 7, 7
    x = Slice(1, h, w, c, dtype, seed=1)
    out = torch.full((1, h, w, 64), float("nan"), dtype=dtype)
    sources = {"1x1": c, "reduce3": c, "3x3": 24, "reduce5": c, "5x5": 8, "pool": c}
    sizes = {"3x3": 3, "5x5": 5}
    weights = {
        name: (normal(i, k, sources[name], sizes.get(name, 1), sizes.get(name, 1)) * 0.1).to(dtype)
        for i, (name, k) in enumerate(channels.items())
    }
    slices = dict(zip(("1x1", "3x3", "5x5", "pool"), out.permute(0, 3, 1, 2).split([16, 32, 8, 8], 1), strict=True))
    reduced = {name: Slice(1, h, w, channels[name], dtype) for name in ("reduce3", "reduce5")}
    entry = {"1x1": slices["1x1"], **{name: y.nchw for name, y in reduced.items()}}
    merged = MergedConv1x1(
        [conv_problem(x.nchw, weights[name], None, y) for name, y in entry.items()], TARGETS[90], allow_tf32=False
    )
    merged(x.nchw, *merged.pack([weights[n] for n in entry], [None] * 3), *entry.values())
    with fastcnn.use_backend("triton"):
        for name, source in (("3x3", "reduce3"), ("5x5", "reduce5")):
            fastcnn.functional.conv2d(
                reduced[source].nchw, weights[name], padding=sizes[name] // 2, activation="relu", out=slices[name]
            )
    tail = MaxPoolConv1x1(conv_problem(x.nchw, weights["pool"], None, slices["pool"]), 3, TARGETS[90], allow_tf32=False)
    tail(x.nchw, tail.pack(weights["pool"]), None, slices["pool"])

    def reference(x, *weights):
        w = dict(zip(channels, weights, strict=True))

        def conv(x, name):
            return torch.relu(F.conv2d(x, w[name], padding=sizes.get(name, 1) // 2))

        return torch.cat(
            [
                conv(x, "1x1"),
                conv(conv(x, "reduce3"), "3x3"),
                conv(conv(x, "reduce5"), "5x5"),
                conv(F.max_pool2d(x, 3, 1, 1), "pool"),
            ],
            1,
        )

    check(out.permute(0, 3, 1, 2), reference, x.nchw, *weights.values(), floor_scale=8)


@pytest.mark.parametrize("name", ["Bottleneck", "BasicBlock", "Inception"])
def test_layers_run_end_to_end(name):
    """fastcnn.nn's blocks give the same result by Triton kernels as by PyTorch's operators."""
    torch.manual_seed(0)
    blocks = {
        "Bottleneck": lambda: fastcnn.nn.Bottleneck(32, 8, stride=2),
        "BasicBlock": lambda: fastcnn.nn.BasicBlock(16, 16),
        "Inception": lambda: fastcnn.nn.Inception(24, 16, 24, 32, 8, 8, 8),
    }
    block = blocks[name]().eval()
    x = torch.randn(1, {"Bottleneck": 32, "BasicBlock": 16, "Inception": 24}[name], 8, 8)
    with torch.no_grad():
        with fastcnn.use_backend("reference"):
            expected = block(x)
        with fastcnn.use_backend("triton"):
            got = block(x)
    assert torch.allclose(got, expected, atol=2e-5, rtol=1e-4)
