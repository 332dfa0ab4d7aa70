"""The launch path and the choice of kernels, with a driver that only records: what needs no GPU to be right."""

from __future__ import annotations

import collections
import dataclasses
import re
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch

import fastcnn
from fastcnn.backends.triton import backend as triton_backend

pytest.importorskip("triton")

from fastcnn.backends.triton import common as triton_common
from fastcnn.backends.triton import cost
from fastcnn.backends.triton.common import Launch
from fastcnn.backends.triton.target import TARGETS
from fastcnn.core import ledger, tuning_file
from fastcnn.ops.conv2d import triton_launch
from fastcnn.ops.conv2d.contract import tuning_key
from fastcnn.ops.conv2d.triton_launch import Conv2d, box, candidates, descriptor_reason, gemm_of
from fastcnn.workbench.verify.triton_cases import CONVOLUTIONS, conv2d_problem


class FakeTensor:
    """A tensor on a device that is not there."""

    def __init__(self, address, device=0):
        self.address = address
        self.device = SimpleNamespace(index=device)

    def data_ptr(self):
        return self.address


@pytest.fixture
def driver(monkeypatch):
    """Records what is compiled and launched."""
    record = SimpleNamespace(compiled=[], launched=[])

    def load(launch, device, aligned):
        record.compiled.append(aligned)
        return SimpleNamespace(
            function="function", packed_metadata="metadata", run=lambda *args: record.launched.append(args)
        )

    monkeypatch.setattr(Launch, "_load", load)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 7, raising=False)
    return record


@pytest.fixture
def counted(driver, monkeypatch):
    """The recording driver, taking CPU tensors as those of the current device; counts everything that is built."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    counts = collections.Counter()

    def count(owner, name, counted_as=None):
        real = getattr(owner, name)

        def counting(*args, **kwargs):
            counts[counted_as or name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(Launch, "__init__")
    count(Launch, "_load")
    count(TensorDescriptor, "__post_init__")
    count(triton_launch, "pack_weight")
    for name in ("empty", "empty_like", "empty_strided", "zeros"):
        count(torch, name, "allocated")
    for name in ("new_empty", "new_empty_strided"):
        count(torch.Tensor, name, "allocated")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(triton_backend, "reason_against", lambda *args, **kwargs: None)
    monkeypatch.setattr(triton_common, "_workspaces", triton_common._Workspaces())
    for operator in fastcnn.core.selector.SELECTORS.values():
        monkeypatch.setattr(operator, "_runners", {})
    with fastcnn.use_backend("triton"):
        yield SimpleNamespace(counts=counts, launched=driver.launched)


CALLS = {
    # what is called, how many kernels that launches, how many tensors they read through descriptors
    "boxes": (lambda f, x: f.conv2d(x(64, 256, 56, 56), x(64, 256, 1, 1), x(64)), 1, 2),
    "split": (lambda f, x: f.conv2d(x(1, 2048, 7, 7), x(256, 2048, 1, 1), x(256)), 2, 0),
    "stem": (lambda f, x: f.conv2d(x(32, 3, 64, 64), x(16, 3, 7, 7), stride=2, padding=3), 1, 0),
    "linear": (lambda f, x: f.linear(x(1, 4096), x(1000, 4096), x(1000)), 2, 0),
    "max_pool2d": (lambda f, x: f.max_pool2d(x(1, 8, 9, 9), 3, 2), 1, 0),
    "concat": (lambda f, x: f.concat([x(1, 8, 9, 9), x(1, 8, 9, 9)]), 2, 0),
    "subsample2d": (lambda f, x: f.subsample2d(x(1, 8, 8, 8), x(8), x(8)), 1, 0),
    "rbf": (lambda f, x: f.rbf(x(3, 84), x(10, 84)), 1, 0),
    "local_response_norm": (lambda f, x: f.local_response_norm(x(1, 8, 9, 9), 5), 1, 0),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_second_call_builds_nothing(counted, name, dtype):
    """From the function to the driver: no launch, descriptor, packed weight or cast, no memory but the output."""
    call, kernels, descriptors = CALLS[name]
    tensors = {}

    def tensor(*shape):
        if shape not in tensors:
            x = torch.zeros(shape, dtype=dtype)
            tensors[shape] = x.to(memory_format=torch.channels_last) if len(shape) == 4 else x
        return tensors[shape]

    with torch.no_grad():
        call(fastcnn.functional, tensor)
        assert len(counted.launched) == kernels
        assert counted.counts["__post_init__"] == descriptors
        assert counted.counts["__init__"] >= kernels
        assert counted.counts["_load"] == kernels
        counted.counts.clear()
        with forbid_casts():
            call(fastcnn.functional, tensor)
    assert len(counted.launched) == 2 * kernels
    assert counted.counts == {"allocated": 1}


class forbid_casts:
    """Fails on Tensor.to and Tensor.copy_: each would be a kernel of its own."""

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for name in ("to", "copy_", "float", "clone"):
            self.patch.setattr(torch.Tensor, name, self.fail)

    def fail(self, *args, **kwargs):
        raise AssertionError("a tensor is copied on each call")

    def __exit__(self, *exception):
        self.patch.undo()


def test_descriptors_follow_their_tensors(counted):
    """Another address has another descriptor; none keeps the memory of a tensor that is gone."""
    weight = torch.zeros(64, 256, 1, 1, dtype=torch.float16)
    inputs = [torch.zeros(64, 56, 56, 256, dtype=torch.float16).permute(0, 3, 1, 2) for _ in range(2)]
    with torch.no_grad():
        for x in inputs:
            fastcnn.functional.conv2d(x, weight)
            assert counted.launched[-1][9].base.data_ptr() == x.data_ptr()
    gone = weakref.ref(inputs[0])
    del x, inputs[0]
    assert gone() is None


def test_workspaces_are_kept_apart(monkeypatch):
    """Streams, threads and captured graphs never share scratch memory; it grows, and is never cut."""
    stream = SimpleNamespace(raw=1, capturing=False)
    device = SimpleNamespace(index=None)
    monkeypatch.setattr(triton_common, "_workspaces", triton_common._Workspaces())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: stream.capturing)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: stream.raw, raising=False)
    monkeypatch.setattr(torch, "empty", lambda n, dtype, device: torch.zeros(n, dtype=dtype))

    def workspace(elements):
        return triton_common.workspace(elements, device)

    first = workspace(100)
    assert workspace(50) is first
    larger = workspace(200)
    assert larger.numel() >= 200
    assert workspace(100) is larger
    stream.raw = 2
    assert workspace(100) is not larger
    stream.raw, stream.capturing = 1, True
    captured = workspace(100)
    assert captured is not larger
    assert workspace(100) is not captured
    stream.capturing = False
    assert workspace(100) is larger
    others = []
    thread = threading.Thread(target=lambda: others.append(workspace(100)))
    thread.start()
    thread.join()
    assert others[0] is not larger


def test_launch_compiles_once_and_passes_the_problem(driver):
    """A second call compiles nothing; tensors off a multiple of 16 bytes get a kernel with narrower accesses."""
    conv = Conv2d(conv2d_problem(torch.float16, *CONVOLUTIONS["ResNet res2 3x3"]), TARGETS[80])
    (launch,) = conv.launches
    tensors = [FakeTensor(16 * i) for i in range(5)]
    launch(*tensors)
    launch(*tensors)
    assert driver.compiled == [True]
    launch(*tensors[:4], FakeTensor(8))
    launch(*tensors)
    assert driver.compiled == [True, False]
    grid, (stream, *_), args = driver.launched[0][:3], driver.launched[0][3:9], driver.launched[0][9:]
    assert grid == launch.grid
    assert stream == 7
    assert args[:5] == tuple(tensors)
    assert len(args) == len(launch.kernel.arg_names)


def test_constants_must_match_the_kernel():
    from fastcnn.ops.conv2d.triton_kernels import reduce_splits_kernel

    with pytest.raises(TypeError, match="reduce_splits_kernel takes"):
        Launch(reduce_splits_kernel, [torch.float32], {"M": 1}, {}, (1,))


def test_cpu_tensors_are_refused_with_a_reason():
    with pytest.raises(fastcnn.core.candidate.Unsupported, match="the input is on cpu"), fastcnn.use_backend("triton"):
        fastcnn.functional.add_relu(torch.zeros(2), torch.zeros(2))


def test_unverified_kernels_are_not_chosen_by_default(monkeypatch):
    """On a GPU a kernel without an entry in the ledger runs only where triton is demanded."""
    problem = conv2d_problem(torch.float16, *CONVOLUTIONS["VGG 3x3"])._replace(device=torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H")
    monkeypatch.setattr(ledger, "hint", lambda architecture, name: None)
    name = "conv2d.triton.implicit_gemm"
    assert "not yet run on hardware" in triton_backend.reason_against(name, problem)
    with fastcnn.use_backend("triton"):
        assert triton_backend.reason_against(name, problem) is None
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert triton_backend.reason_against(name, problem) is None
        assert "no tensor-core" in triton_backend.reason_against(name, problem, products="conv")
        assert triton_backend.reason_against(name, problem, products="conv", tensor_cores=False) is None
        bfloat16 = problem._replace(dtype=torch.bfloat16)
        assert triton_backend.reason_against(name, bfloat16) == "sm_75 has no bfloat16"
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
        assert "older than sm_75" in triton_backend.reason_against(name, problem)


@pytest.fixture
def precisions():
    """Lets a test change PyTorch's TF32 settings; its older and newer names cannot undo one another."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


SETTINGS = {
    "allow_tf32": lambda allowed: setattr(torch.backends.cudnn, "allow_tf32", allowed),
    "fp32_precision": lambda allowed: setattr(
        torch.backends.cudnn.conv, "fp32_precision", "tf32" if allowed else "ieee"
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_tf32_is_asked_of_the_ledger_at_each_setting(monkeypatch, precisions, setting):
    """What is verified with TF32 is not verified without it, and the other way round; a remembered choice knows."""
    asked = []

    def reason_against(kernel, problem, products=None, **_):
        asked.append(triton_backend.tf32_allowed(products))
        return "not yet run on hardware"

    monkeypatch.setattr(triton_backend, "reason_against", reason_against)
    monkeypatch.setattr(fastcnn.ops.conv2d, "_runners", {})
    x, weight = torch.randn(1, 4, 3, 3), torch.randn(4, 4, 1, 1)
    with torch.no_grad():
        for allowed in (True, False):
            SETTINGS[setting](allowed)
            asked.clear()
            fastcnn.functional.conv2d(x, weight)
            assert set(asked) == {allowed}
            asked.clear()
            fastcnn.functional.conv2d(x, weight)
            assert not asked, "a choice that was made is remembered"
            SETTINGS[setting](not allowed)
            SETTINGS[setting](allowed)
            fastcnn.functional.conv2d(x, weight)
            assert not asked


def test_convolutions_and_products_have_settings_of_their_own(precisions):
    for conv in (True, False):
        for matmul in (True, False):
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = conv, matmul
            assert (triton_backend.tf32_allowed("conv"), triton_backend.tf32_allowed("matmul")) == (conv, matmul)


def test_missing_triton_is_a_reason(monkeypatch):
    problem = conv2d_problem(torch.float16, *CONVOLUTIONS["VGG 3x3"])._replace(device=torch.device("cuda"))
    monkeypatch.setattr(triton_backend.importlib.util, "find_spec", lambda name: None)
    assert triton_backend.reason_against("conv2d.triton.implicit_gemm", problem) == "triton is not installed"


@pytest.mark.parametrize("arch", TARGETS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_choice_fits_the_target(name, arch):
    """The cost model's choice fits in shared memory, uses its SMs where the problem has work, and can explain."""
    for dtype in (torch.float32, torch.float16):
        problem = conv2d_problem(dtype, *CONVOLUTIONS[name])
        conv = Conv2d(problem, TARGETS[arch])
        assert conv.config.shared_bytes <= TARGETS[arch].shared_per_block
        found = conv.estimate()
        assert found.seconds >= found.roofline_seconds
        assert "predicted" in str(conv)


def test_estimate_counts_what_is_read():
    """Bytes of a strided 1x1 convolution: a quarter of its input's; a residual is read once more."""
    projection = conv2d_problem(torch.float16, *CONVOLUTIONS["ResNet projection stride 2"])
    outputs, weights = 32 * 28 * 28 * 512, 512 * 256
    assert gemm_of(projection, True).dram_bytes == 2 * (32 * 28 * 28 * 256 + weights + outputs)
    added = projection._replace(has_residual=True)
    assert gemm_of(added, True).dram_bytes - gemm_of(projection, True).dram_bytes == 2 * outputs


@pytest.mark.parametrize("name", ["VGG 3x3", "ResNet res3 1x1 + residual"])
def test_estimates_rank_as_hardware_does(name):
    """More images cost more, by less than in proportion; a newer GPU and fewer bits less; none beats the roofline."""

    def microseconds(dtype, arch, N, tf32=True):
        found = Conv2d(conv2d_problem(dtype, N, *CONVOLUTIONS[name][1:]), TARGETS[arch], allow_tf32=tf32).estimate()
        assert found.seconds > found.roofline_seconds > 0
        return found.seconds * 1e6

    for arch in (80, 90, 100):
        half = [microseconds(torch.float16, arch, N) for N in (1, 8, 64)]
        assert half[0] < half[1] < half[2] <= 64 * half[0]
        assert half[2] < microseconds(torch.float32, arch, 64) <= microseconds(torch.float32, arch, 64, tf32=False)
    assert microseconds(torch.float16, 80, 64) > microseconds(torch.float16, 90, 64)


def test_explain_prints_the_estimate(counted):
    """With its configuration, its GPU and the word that nothing was measured, for the kernel that is taken."""
    x, weight = torch.zeros(1, 16, 9, 9), torch.zeros(8, 16, 3, 3)
    text = " ".join(str(fastcnn.explain(fastcnn.functional.conv2d, x, weight)).replace("│", " ").split())
    problem = fastcnn.ops.conv2d.infer((x, weight, None, None, None), ((1, 1), (0,) * 4, (1, 1), 1, None))
    conv = Conv2d(problem, TARGETS[90], descriptor=True)
    assert f"implicit_gemm_tma taken; {conv.config} on H100: predicted" in text
    assert re.search(r"predicted \d+\.\d us, [\w ]+-bound, \d+ blocks, .* \(never measured\)", text)
    text = str(fastcnn.explain(fastcnn.functional.linear, torch.zeros(1, 64), torch.zeros(8, 64)))
    assert "predicted" in text


@pytest.mark.parametrize(("name", "megabytes"), [
    ("max_pool2d", 4 * (8 * 81 + 8 * 16) / 1e6), ("local_response_norm", 4 * 2 * 8 * 81 / 1e6),
    ("concat", 4 * 4 * 8 * 81 / 1e6), ("subsample2d", 4 * 8 * (64 + 16) / 1e6),
    ("rbf", 4 * (3 * 84 + 10 * 84 + 30) / 1e6), ("add_relu", 4 * 3 * 8000000 / 1e6),
])  # fmt: skip
def test_explain_prints_what_memory_costs(counted, name, megabytes):
    calls = CALLS | {"add_relu": (lambda f, x: f.add_relu(x(8000000), x(8000000)),)}
    text = str(fastcnn.explain(lambda: calls[name][0](fastcnn.functional, torch.zeros)))
    microseconds = 2.5 + megabytes / 3.35
    assert f"on H100: predicted {microseconds:.1f} us, {megabytes:.1f} MB" in " ".join(text.replace("│", " ").split())


def test_small_batches_are_split_and_large_ones_not():
    """One image of res4 leaves most SMs idle unless the sum is split; VGG at 32 fills them."""
    small = Conv2d(conv2d_problem(torch.float16, *CONVOLUTIONS["ResNet res4 3x3 batch 1"]), TARGETS[90])
    large = Conv2d(conv2d_problem(torch.float16, *CONVOLUTIONS["VGG 3x3"]), TARGETS[90])
    assert small.config.splits > 1
    assert large.config.splits == 1
    assert large.config.block_m * large.config.block_n > small.config.block_m * small.config.block_n


@pytest.mark.parametrize("size", [1, 7, 14, 28, 56, 112])
@pytest.mark.parametrize("block_m", [16, 64, 128])
def test_boxes_cover_the_output(size, block_m):
    problem = conv2d_problem(torch.float16, 8, size, 64, 64, 1, 1, 1, False)
    images, rows, columns = box(problem, block_m)
    assert images * rows * columns == block_m
    assert max(images, rows, columns) <= 256
    assert descriptor_reason(problem, cost.Config(block_m, 64, 128, 4, 3, descriptor=True)) is None


def test_tuned_choice_wins(monkeypatch):
    problem = conv2d_problem(torch.float16, *CONVOLUTIONS["VGG 3x3"])
    found = candidates(problem, TARGETS[90], gemm_of(problem, True))
    choices = {}
    monkeypatch.setattr(tuning_file, "choices", lambda device, backend: choices if backend == "triton" else {})
    before = Conv2d(problem, TARGETS[90]).config
    for chosen in (found[0], found[-1]):
        choices[tuning_key(problem, True)] = cost.entry(chosen)
        assert Conv2d(problem, TARGETS[90]).config == chosen
        reason = triton_launch.descriptor_against(problem, TARGETS[90], True)
        assert reason is None if chosen.descriptor else "tuned: " in reason
    # A choice of an older version, or of another precision, is no candidate.
    choices[tuning_key(problem, True)] = {**cost.entry(found[0]), "block_m": 48}
    assert Conv2d(problem, TARGETS[90]).config == before
    strict = problem._replace(dtype=torch.float32)
    choices[tuning_key(strict, True)] = cost.entry(found[-1])
    assert Conv2d(strict, TARGETS[90], allow_tf32=True).config == found[-1]
    assert tuning_key(strict, True) != tuning_key(strict, False)


def test_configurations_are_valid():
    """No flattened loop over taps with 8 warps, which has been miscompiled; splits come from the model alone."""
    for kernel in ("conv2d", "conv2d_rows"):
        for config in cost.configs(kernel):
            assert config.splits == 1
            assert config.num_warps in (4, 8)
            assert not (config.descriptor and config.num_warps > 4)


def test_tiles_that_spill_are_no_candidates():
    """In the precision and on the architectures that are named, and on the ones that run the same code."""
    problem = conv2d_problem(torch.float32, *CONVOLUTIONS["VGG 3x3"])
    tile = cost.Config(64, 64, 128, 4, 3)
    strict, tf32, half = (
        gemm_of(problem, False),
        gemm_of(problem, True),
        gemm_of(problem._replace(dtype=torch.half), True),
    )
    everywhere = dataclasses.replace(tile, spills=("tf32x3",))
    once = dataclasses.replace(tile, spills=("tf32x3 sm_80",))
    halves = dataclasses.replace(tile, spills=("half sm_100",))
    for arch in (80, 86, 90, 100, 120):
        target = dataclasses.replace(TARGETS[90], arch=arch)
        assert cost.spills(everywhere, strict, target)
        assert not any(cost.spills(everywhere, gemm, target) for gemm in (tf32, half))
        assert cost.spills(once, strict, target) == (arch in (80, 86))
        assert not cost.spills(tile, strict, target)
        assert cost.spills(halves, half, target) == (arch >= 100)
        assert not cost.spills(halves, tf32, target)
    for arch, target in TARGETS.items():
        assert not any(cost.spills(config, strict, target) for config in candidates(problem, target, strict)), arch
