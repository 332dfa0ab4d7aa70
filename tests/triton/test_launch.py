"""The launch path and the choice of kernels, with a driver that only records: what needs no GPU to be right."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import fastcnn
from fastcnn.ops import triton_backend

pytest.importorskip("triton")

from fastcnn.ops import triton_cost as cost
from fastcnn.ops.conv2d.triton_launch import Conv2d, box, candidates, descriptor_reason, gemm_of
from fastcnn.ops.triton_cases import CONVOLUTIONS, conv2d_problem
from fastcnn.ops.triton_common import TARGETS, Launch


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
    with pytest.raises(fastcnn.dispatch.Unsupported, match="the input is on cpu"), fastcnn.use_backend("triton"):
        fastcnn.functional.add_relu(torch.zeros(2), torch.zeros(2))


def test_unverified_kernels_are_not_chosen_by_default(monkeypatch):
    """On a GPU a kernel without an entry in the ledger runs only where triton is demanded."""
    problem = conv2d_problem(torch.float16, *CONVOLUTIONS["VGG 3x3"])._replace(device=torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    name = "conv2d.triton.implicit_gemm"
    assert "not yet run on hardware" in triton_backend.reason_against(name, problem)
    with fastcnn.use_backend("triton"):
        assert triton_backend.reason_against(name, problem) is None
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert "sm_75" in triton_backend.reason_against(name, problem)


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
    from fastcnn.ops.conv2d.triton_launch import problem_key

    problem = conv2d_problem(torch.float16, *CONVOLUTIONS["VGG 3x3"])
    chosen = candidates(problem, TARGETS[90], gemm_of(problem, True))[-1]
    monkeypatch.setattr(cost, "tuned", lambda device: {problem_key(problem): chosen})
    assert Conv2d(problem, TARGETS[90]).config == chosen


def test_configurations_are_valid():
    """No flattened loop over taps with 8 warps, which has been miscompiled; splits come from the model alone."""
    for kernel in ("conv2d", "conv2d_rows", "conv1x1_multi", "max_pool_conv1x1"):
        for config in cost.configs(kernel):
            assert config.splits == 1
            assert config.num_warps in (4, 8)
            assert not (config.descriptor and config.num_warps > 4)
