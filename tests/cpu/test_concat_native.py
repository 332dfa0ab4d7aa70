import pytest
import torch
from native import Slice, pixel_stride, problem, sliced

from fastcnn import _C


def run(x: torch.Tensor, y: torch.Tensor, threads: int) -> None:
    p = problem(
        "CopySlice",
        element_size=x.element_size(),
        pixels=x.shape[0],
        C=x.shape[1],
        x_stride=pixel_stride(x),
        y_stride=pixel_stride(y),
    )
    _C.cpu.concat([p], threads)(x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("pixels", "C"), [(0, 8), (1, 1), (37, 3), (300, 64), (1000, 33)])
@pytest.mark.parametrize(("extra", "slice_input"), [(0, False), (7, True), (16, False)])
def test_copies_bits(isa: str, dtype: torch.dtype, pixels: int, C: int, extra: int, slice_input: bool) -> None:
    x = torch.randn(pixels, C).to(dtype)
    out = Slice((pixels, C), dtype, extra)
    run(sliced(x) if slice_input else x, out.data, 3)
    assert torch.equal(out.data, x)
    out.assert_neighbours_untouched()


def test_beyond_the_caches(isa: str) -> None:
    x = torch.randn(150_000, 160)
    out = Slice((150_000, 160), torch.float32, extra=97, offset=33)  # slices at odd addresses, streamed
    run(x, out.data, 2)
    assert torch.equal(out.data, x)
    out.assert_neighbours_untouched()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("pixels", "channels"), [(0, [8]), (37, [3]), (300, [64, 1, 33]), (40_000, [70, 160, 70])])
@pytest.mark.parametrize("extra", [0, 5])
def test_inputs_side_by_side(isa: str, dtype: torch.dtype, pixels: int, channels: list[int], extra: int) -> None:
    xs = [torch.randn(pixels, C).to(dtype) for C in channels]
    given = [sliced(x) if i % 2 else x for i, x in enumerate(xs)]
    out = Slice((pixels, sum(channels)), dtype, extra, extra // 2)
    shared = {"element_size": dtype.itemsize, "pixels": pixels, "y_stride": pixel_stride(out.data)}
    problems = [problem("CopySlice", C=x.shape[1], x_stride=pixel_stride(x), **shared) for x in given]
    _C.cpu.concat(problems, 3)(*given, out.data)
    assert torch.equal(out.data, torch.cat(xs, 1))
    out.assert_neighbours_untouched()
    with pytest.raises(ValueError, match="no slices; at least one is needed"):
        _C.cpu.concat([], 1)
    with pytest.raises(TypeError, match="1 tensors and an output are needed, 1 were given"):
        _C.cpu.concat(problems[:1], 1)(out.data)
