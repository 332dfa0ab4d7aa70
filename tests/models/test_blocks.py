"""The public blocks: fastcnn.nn.{Inception, BasicBlock, Bottleneck}."""

import gc

import pytest
import torch
from model_helpers import random_state, relative_error

import fastcnn
from fastcnn import nn
from fastcnn.core import layout, packing
from fastcnn.nn import blocks


def settled(module: torch.nn.Module) -> torch.nn.Module:
    module.load_state_dict(random_state(module.state_dict()))
    return module.eval()


def test_blocks_are_public() -> None:
    assert (nn.Inception, nn.BasicBlock, nn.Bottleneck) == (blocks.Inception, blocks.BasicBlock, blocks.Bottleneck)
    assert {"Inception", "BasicBlock", "Bottleneck"} <= set(nn.__all__)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_inception_writes_slices_that_equal_the_concatenation(batch: int, batch_norm: bool) -> None:
    block = settled(nn.Inception(13, 5, 7, 11, 3, 9, 6, batch_norm=batch_norm))
    x = torch.randn(batch, 13, 9, 7)
    expected = torch.cat([block.branch1(x), block.branch2(x), block.branch3(x), block.branch4(x)], 1)
    concatenated = block(x)
    assert concatenated.requires_grad
    with torch.no_grad():
        written = block(x)
    assert written.shape == (batch, 5 + 11 + 9 + 6, 9, 7)
    assert layout.pixel_stride(written) is not None, "kernels read the output in place"
    torch.testing.assert_close(concatenated, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(written, expected, rtol=1e-4, atol=1e-5)


def test_inception_writes_every_branch_straight_into_the_output() -> None:
    block = settled(nn.Inception(16, 8, 8, 8, 8, 8, 8))
    seen = []
    for branch in (block.branch1, block.branch2[1], block.branch3[1], block.branch4[1]):
        branch.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        output = block(torch.randn(2, 16, 6, 6))
    storage = output.untyped_storage().data_ptr()
    assert [out.untyped_storage().data_ptr() for out in seen] == [storage] * 4
    assert [out.storage_offset() for out in seen] == [0, 8, 16, 24]


def convolutions(block: torch.nn.Module, x: torch.Tensor) -> list[int]:
    """The output channels of each convolution that a call runs."""
    return [choice.problem.K for choice in fastcnn.explain(block, x).choices if choice.operator == "conv2d"]


def test_inception_reads_its_input_in_one_convolution() -> None:
    block = settled(nn.Inception(16, 8, 9, 10, 11, 12, 13))
    x = torch.randn(2, 16, 5, 7)
    assert convolutions(block, x) == [9 + 11 + 8, 10, 12, 13]
    with torch.no_grad():
        before = block(x)
        block.branch3[0].bias += 1
        block.branch1.weight *= -1
        after = block(x)
    torch.testing.assert_close(after, block(x), rtol=1e-4, atol=1e-5)
    assert not torch.equal(before[:, :8], after[:, :8])
    assert torch.equal(before[:, 8:18], after[:, 8:18]), "the 3x3 branch has changed"
    assert not torch.equal(before[:, 18:30], after[:, 18:30])


def test_inception_calls_convolutions_that_are_not_plain() -> None:
    """A hook, another activation or another class of one convolution is not lost by merging it."""
    x = torch.randn(1, 16, 5, 5)
    separate = [8, 8, 8, 8, 8, 8]
    seen = []
    block = settled(nn.Inception(16, 8, 8, 8, 8, 8, 8))
    handle = block.branch2[0].register_forward_hook(lambda *args: seen.append(args))
    assert convolutions(block, x) == separate
    assert seen
    handle.remove()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *args: None)
    assert convolutions(block, x) == separate
    handle.remove()
    assert len(convolutions(block, x)) == 4
    block.branch1.activation = None
    assert convolutions(block, x) == separate
    with torch.no_grad():
        torch.testing.assert_close(block(x)[:, :8], block.branch1(x))
    block = settled(nn.Inception(16, 8, 8, 8, 8, 8, 8))
    torch.nn.utils.parametrizations.weight_norm(block.branch3[0])
    assert convolutions(block, x) == separate


def test_inception_joins_its_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packing.clear_packed()
    block = settled(nn.Inception(16, 8, 8, 8, 8, 8, 8))
    x = torch.randn(1, 16, 5, 5)
    with torch.inference_mode():
        block(x)
        made = [entry.result for entry in packing._kept.values()]
        assert len([key for key in packing._kept if key[0] == "joined"]) == 2
        monkeypatch.setattr(torch, "cat", None)
        block(x)
        assert all(a is entry.result for a, entry in zip(made, packing._kept.values(), strict=True))
    monkeypatch.undo()
    del block, made
    gc.collect()
    assert not packing._kept


@pytest.mark.parametrize("batch_norm", [False, True])
def test_inception_keeps_nan(batch_norm: bool) -> None:
    block = settled(nn.Inception(8, 4, 4, 4, 4, 4, 4, batch_norm=batch_norm))
    x = torch.randn(1, 8, 12, 12)
    x[0, 2, 6, 6] = torch.nan
    with torch.no_grad():
        output = block(x)
    assert output[0, :, 6, 6].isnan().all()
    assert output[0, :, 0, 0].isfinite().all()


def test_inception_under_autocast_and_other_dtypes() -> None:
    block = settled(nn.Inception(8, 4, 4, 4, 4, 4, 4))
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        expected = block(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert relative_error(block(x).float(), expected) < 0.05
        half = block.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert relative_error(half.float(), expected) < 0.05


def test_inception_refuses_an_unbatched_picture() -> None:
    block = nn.Inception(8, 4, 4, 4, 4, 4, 4)
    with pytest.raises(ValueError, match=r"input has shape \(8, 6, 6\), expected \(N, C, H, W\)"), torch.no_grad():
        block(torch.randn(8, 6, 6))


def test_inception_uses_the_papers_kernels_or_torchvisions() -> None:
    assert nn.Inception(8, 4, 4, 4, 4, 4, 4).branch3[1].kernel_size == (5, 5)
    assert nn.Inception(8, 4, 4, 4, 4, 4, 4, batch_norm=True).branch3[1].conv.kernel_size == (3, 3)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shortcut", ["A", "B", "none"])
@pytest.mark.parametrize("block", [nn.BasicBlock, nn.Bottleneck])
def test_residual_blocks(block: type, shortcut: str, stride: int) -> None:
    module = settled(block(12, 12, stride, shortcut))
    x = torch.randn(2, 12, 9, 11)
    y = torch.relu(module.bn1(module.conv1(x)))
    y = module.bn2(module.conv2(y))
    if block is nn.Bottleneck:
        y = module.bn3(module.conv3(torch.relu(y)))
    changes = stride != 1 or block is nn.Bottleneck
    if shortcut == "none":
        skip = torch.zeros_like(y)
    elif not changes:
        skip = x
    elif shortcut == "A":
        skip = torch.zeros_like(y)
        skip[:, :12] = x[:, :, ::stride, ::stride]
    else:
        skip = module.downsample[1](module.downsample[0](x))
    expected = torch.relu(y + skip)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)
    parameters = sum(p.numel() for p in module.downsample.parameters()) if module.downsample is not None else 0
    assert (parameters > 0) == (shortcut == "B" and changes)


def test_residual_blocks_leave_their_input_alone() -> None:
    module = settled(nn.BasicBlock(8, 8))
    x = torch.randn(1, 8, 6, 6)
    before = x.clone()
    with torch.no_grad():
        module(x)
    assert torch.equal(x, before)


def test_unknown_shortcut() -> None:
    with pytest.raises(ValueError, match="BasicBlock: unknown shortcut 'C', expected one of"):
        nn.BasicBlock(8, 8, shortcut="C")
