"""Convolutions on which cuDNN or PyTorch is documented to be slow, each with its thread, timed beside ours.

    python -m benchmarks.weak_spots [--output FILE] [--device cuda] [--seconds 0.05]

Each case: the result of every contender is compared with float64 first; then they take turns, by CUDA events, each call
from a cold L2 cache. A contender that is wrong or fails is named with its reason and not timed. The file is written
anew after each case. --rehearse: the same at a size for the emulator's machine; its times say nothing of a GPU.

No result of this file from hardware is in the project yet.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcnn import functional, use_backend
from fastcnn.workbench.report import results, timing
from fastcnn.workbench.verify import judge


@dataclasses.dataclass(frozen=True)
class Spot:
    """One convolution with bias; the case's `floor_bytes` and `flops` follow from it.

    thread: of github.com/pytorch/pytorch, unless a name is given. says: what is reported there. goal: times as fast as
    the best of PyTorch's own ways. backward: the gradients of input and weight are computed too.
    """

    name: str
    thread: str
    says: str
    goal: float
    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    padding: tuple[int, int]
    dtype: str = "float16"
    stride: int = 1
    groups: int = 1
    activation: str | None = None
    backward: bool = False

    @property
    def flops(self) -> int:
        P, Q = self.output
        return 2 * self.N * P * Q * self.K * self.C // self.groups * self.R * self.S * (3 if self.backward else 1)

    @property
    def output(self) -> tuple[int, int]:
        P = (self.H + 2 * self.padding[0] - self.R) // self.stride + 1
        return P, (self.W + 2 * self.padding[1] - self.S) // self.stride + 1

    @property
    def floor_bytes(self) -> int:
        """Input, weight and output, once each."""
        P, Q = self.output
        elements = self.N * self.C * self.H * self.W + self.K * self.C // self.groups * self.R * self.S
        return (elements + self.N * self.K * P * Q) * (4 if self.dtype == "float32" else 2)

    def small(self) -> Spot:
        """The same form, small enough for any machine, in the dtype that a CPU is quick in."""
        channels = min(self.C // self.groups, 8)
        groups = min(self.groups, 4)
        C = self.C if self.groups == 1 and self.C <= 3 else channels * groups
        R = min(self.R, 9)
        return dataclasses.replace(
            self, dtype="float32", N=2, C=C, K=max(groups, C), H=min(self.H, 12), W=min(self.W, 12), R=R,
            S=min(self.S, 9), padding=(min(self.padding[0], R // 2), min(self.padding[1], 4)), groups=groups,
        )  # fmt: skip


SPOTS = (
    Spot("ResNeXt 3x3, 32 groups of 64, channels_last", "34977", "30 to 40 times slower than in NCHW",
         10, 32, 2048, 7, 7, 2048, 3, 3, (1, 1), groups=32, activation="relu"),
    Spot("ResNeXt 3x3, 32 groups of 4, channels_last", "34977", "the same thread, ResNeXt-50's first stage",
         10, 32, 128, 56, 56, 128, 3, 3, (1, 1), groups=32, activation="relu"),
    Spot("3x3, groups 2", "54324", "92 % of the time in genericTranspose",
         2, 1, 64, 998, 998, 64, 3, 3, (1, 1), groups=2),
    Spot("AlexNet's 5x5, groups 2", "54324", "the same thread; the form that AlexNet's paper has",
         2, 32, 96, 27, 27, 256, 5, 5, (2, 2), groups=2, activation="relu"),
    Spot("3x3, 8 groups of 16, mixed precision", "53094", "0.32 s in fp16 against 0.05 s in fp32, 300 calls",
         2, 128, 128, 64, 64, 128, 3, 3, (1, 1), groups=8),
    Spot("first layer of 3 channels, backward", "54404", "\"absurdly slow\" in fp16 on an A100",
         2, 512, 3, 32, 32, 64, 3, 3, (1, 1), backward=True),
    Spot("depthwise conv1d, 31 taps", "170138", "slow in fp16 since 2.8, fast in bf16 (H100)",
         2, 16, 768, 1, 1024, 768, 1, 31, (0, 15), groups=768),
    Spot("depthwise conv1d, 31 taps, bf16", "170138", "the fast one of the pair",
         1, 16, 768, 1, 1024, 768, 1, 31, (0, 15), "bfloat16", groups=768),
    Spot("depthwise conv1d, 4 taps", "192902", "a short convolution far from the memory's bandwidth",
         2, 1, 12288, 1, 16384, 12288, 1, 4, (0, 2), "bfloat16", groups=12288),
    Spot("depthwise 3x3", "18631", "slower than the whole convolution",
         2, 2, 32, 512, 512, 32, 3, 3, (1, 1), groups=32),
    Spot("depthwise 3x3, bf16", "91735", "cuDNN 0.64 to 3.9 times as fast as the native kernel",
         2, 32, 192, 56, 56, 192, 3, 3, (1, 1), "bfloat16", groups=192),
    Spot("one channel, 51x51", "146096", "8 times slower in 2.5.1 than in 2.3.1",
         2, 75, 1, 572, 572, 1, 51, 51, (0, 0), "float32"),
    Spot("batch 4", "106485", "the time jumps from batch 8 to 16", 1, 4, 64, 256, 256, 64, 3, 3, (1, 1), "float32"),
    Spot("batch 8", "106485", "the time jumps from batch 8 to 16", 1, 8, 64, 256, 256, 64, 3, 3, (1, 1), "float32"),
    Spot("batch 16", "106485", "the time jumps from batch 8 to 16", 1, 16, 64, 256, 256, 64, 3, 3, (1, 1), "float32"),
    Spot("64 channels, bias and ReLU", "torch-mojo-backend 387", "58.8 us in eager mode, 31.2 the convolution (H100)",
         2, 32, 64, 56, 56, 64, 3, 3, (1, 1), "bfloat16", activation="relu"),
)  # fmt: skip

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def tensors(spot: Spot, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and bias, random, channels_last."""
    generator = torch.Generator().manual_seed(0)
    dtype = DTYPES[spot.dtype]
    x = torch.randn(spot.N, spot.C, spot.H, spot.W, generator=generator)
    depth = spot.C // spot.groups * spot.R * spot.S
    weight = torch.randn(spot.K, spot.C // spot.groups, spot.R, spot.S, generator=generator) / depth**0.5
    bias = torch.randn(spot.K, generator=generator)
    images = (t.to(device, dtype).contiguous(memory_format=torch.channels_last) for t in (x, weight))
    return *images, bias.to(device, dtype)


def plain(spot: Spot, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = F.conv2d(x, weight, bias, spot.stride, spot.padding, groups=spot.groups)
    return torch.relu(y) if spot.activation == "relu" else y


def ours(spot: Spot, backend: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with use_backend(backend):
        return functional.conv2d(x, weight, bias, stride=spot.stride, padding=spot.padding, groups=spot.groups,
                                 activation=spot.activation)  # fmt: skip


def with_gradients(run: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The gradients of input and weight, in one tensor."""
    leaves = [t.detach().requires_grad_() for t in (x, weight)]
    with torch.enable_grad():
        y = run(*leaves, bias)
        found = torch.autograd.grad(y, leaves, torch.ones_like(y))
    return torch.cat([g.flatten() for g in found])


def contenders(spot: Spot, device: str, x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Ours by backend; PyTorch's in both layouts, cuDNN choosing by measuring."""
    nchw = [t.contiguous() for t in (x, weight)]
    backends = ("cuda", "triton") if device == "cuda" else ("cpu",)
    calls: dict[str, Callable[..., Tensor]] = {
        f"fastcnn {b}": partial(ours, spot, b, x, weight, bias) for b in backends
    }
    calls["pytorch channels_last"] = partial(plain, spot, x, weight, bias)
    calls["pytorch nchw"] = partial(plain, spot, *nchw, bias)
    if spot.backward:
        calls = {f"fastcnn {b}": partial(with_gradients, partial(ours, spot, b), x, weight, bias) for b in backends}
        calls["pytorch channels_last"] = partial(with_gradients, partial(plain, spot), x, weight, bias)
        calls["pytorch nchw"] = partial(with_gradients, partial(plain, spot), *nchw, bias)
    return calls


def measure(spot: Spot, device: str, effort: timing.Effort) -> dict[str, Any]:
    """One case's row: who was timed, with medians and quartiles in microseconds, and who was not, with the reason."""
    x, weight, bias = tensors(spot, device)
    doubles = [t.double() for t in (x, weight, bias)]
    exact = with_gradients(partial(plain, spot), *doubles) if spot.backward else plain(spot, *doubles)
    own = with_gradients(partial(plain, spot), x, weight, bias) if spot.backward else plain(spot, x, weight, bias)
    runs, against = {}, {}
    for name, call in contenders(spot, device, x, weight, bias).items():
        try:
            wrong = judge.verdict(call(), exact, own, tf32=False)
        except Exception as error:
            wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if wrong:
            against[name] = wrong
        else:
            runs[name] = call
    samples = timing.interleave(runs, effort, device) if runs else {}
    row: dict[str, Any] = {"case": dataclasses.asdict(spot), "flops": spot.flops, "floor_bytes": spot.floor_bytes,
                           "not_timed": against}  # fmt: skip
    row["microseconds"] = {
        name: {"median": s.median * 1e6, "q1": s.quantile(0.25) * 1e6, "q3": s.quantile(0.75) * 1e6}
        for name, s in samples.items()
    }
    best = {kind: min((s.median for n, s in samples.items() if n.startswith(kind)), default=None)
            for kind in ("fastcnn", "pytorch")}  # fmt: skip
    row["ratio"] = best["pytorch"] / best["fastcnn"] if best["fastcnn"] and best["pytorch"] else None
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the documented weak spots of cuDNN and PyTorch.")
    parser.add_argument("--output", type=Path, default=Path("results/weak_spots.json"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    effort = timing.Effort(seconds=options.seconds, blocks=3, least_samples=9, pause=0.0)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "a CPU: a rehearsal"
    data: dict[str, Any] = {"device": name, "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(),
                            "commit": results.commit()["id"], "rows": []}  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode(False), torch.no_grad():
        for spot in SPOTS:
            row = measure(spot.small() if options.rehearse else spot, options.device, effort)
            data["rows"].append(row)
            options.output.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
            ratio = "not compared" if row["ratio"] is None else f"{row['ratio']:.2f} times the best of PyTorch's"
            print(f"{spot.thread} {spot.name}: {ratio}, goal {spot.goal}", *row["not_timed"].items(), flush=True)


if __name__ == "__main__":
    main()
