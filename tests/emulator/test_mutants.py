"""Does the emulator catch what it is for? Bugs are seeded in copies of the real kernels, one at a time.

Each mutant is one textual change of a convolution; it is compiled, run under several orders of threads and both
timings, and must be found by the detector, or, where it says so, show in the numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import emulation
import pytest

pytestmark = pytest.mark.emulated

SM80 = "ops/conv2d/conv2d_sm80_cuda.cuh"
SM90 = "ops/conv2d/conv2d_sm90_cuda.cuh"
RESIDENT = "ops/conv2d/conv2d_sm90_resident_cuda.cuh"
HOST90 = "ops/conv2d/conv2d_sm90_cuda.cu"
GROUPED = "ops/conv2d/conv2d_grouped_cuda.cu"
STEM = "ops/conv2d_max_pool2d/conv2d_max_pool2d_cuda.cu"


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    find: str
    replace: str
    finding: str  # a regular expression of the finding, or "numbers"
    residual: bool = False
    ragged: bool = False  # tile edges inside the tensors


MUTANTS = [
    Mutant("sm80: no barrier in the main loop", SM80,
           "    __syncthreads();\n    if (step + Tile::kStages", "    if (step + Tile::kStages",
           "RACE|in flight|uninitialised"),
    Mutant("sm80: cp.async wait off by one", SM80,
           "cp_async_wait<Tile::kStages - 2>", "cp_async_wait<Tile::kStages - 1>", "in flight|uninitialised|RACE"),
    Mutant("sm80: no barrier before the epilogue's writes", SM80,
           "    __syncthreads();\n    if (warp_m == pass)", "    if (warp_m == pass)", "RACE|in flight"),
    Mutant("sm80: no barrier between the epilogue's writes and reads", SM80,
           "    __syncthreads();\n    constexpr int kGroups", "    constexpr int kGroups", "RACE|uninitialised"),
    Mutant("sm80: the last rows are stored past the end", SM80,
           "if (m >= M || n >= K) continue;", "if (n >= K) continue;", "global memory out of bounds: .*thread|global",
           ragged=True),
    Mutant("sm80: shared memory too small for the epilogue's rows", SM80,
           "static constexpr int kSharedBytes = kPipelineBytes > kEpilogueBytes ? kPipelineBytes : kEpilogueBytes;",
           "static constexpr int kSharedBytes = 8192;",
           "shared memory out of bounds"),
    Mutant("sm80: stage index past the ring", SM80,
           "load((step + Tile::kStages - 1) % Tile::kStages)", "load((step + Tile::kStages - 1) % (Tile::kStages + 1))",
           "shared memory out of bounds|in flight|RACE|uninitialised"),
    Mutant("sm80: no padding test on rows", SM80,
           "const bool valid = inside_k && h >= 0 && h < H && w >= 0 && w < W;",
           "const bool valid = inside_k && h >= -1 && w >= 0 && w < W;", "global memory out of bounds|numbers"),
    Mutant("sm80: fragments of weight without swizzle", SM80,
           "tile_b + swizzle_64(warp_n * Tile::kWarpN + j * 16 + lane % 8 + lane / 16 * 8,",
           "tile_b + no_swizzle(warp_n * Tile::kWarpN + j * 16 + lane % 8 + lane / 16 * 8,", "numbers"),
    Mutant("sm80: wrong advance along k", SM80,
           "ldmatrix_x4(a[i], tile_a + swizzle_64(warp_m * Tile::kWarpM + i * 16 + lane % 16, half * 2 + lane / 16))",
           "ldmatrix_x4(a[i], tile_a + swizzle_64(warp_m * Tile::kWarpM + i * 16 + lane % 16, half + lane / 16))",
           "numbers"),
    Mutant("sm80: a collective that one lane skips", SM80,
           "    cp_async_commit();\n    multiply(step % Tile::kStages);",
           "    cp_async_commit();\n    if (thread != 5) multiply(step % Tile::kStages);",
           "DEADLOCK|divergent"),
    Mutant("sm90: wrong parity on the full barrier", SM90,
           "mbarrier_wait(full + 8 * slot.stage, slot.phase);", "mbarrier_wait(full + 8 * slot.stage, slot.phase ^ 1);",
           "in flight|uninitialised|RACE"),
    Mutant("sm90: wrong parity on the empty barrier", SM90,
           "mbarrier_wait(empty + 8 * slot.stage, slot.phase ^ 1);",
           "mbarrier_wait(empty + 8 * slot.stage, slot.phase);", "DEADLOCK"),
    Mutant("sm90: expect_tx too small", SM90,
           "mbarrier_arrive_expect_tx(full + 8 * slot.stage, Tile::kStageBytes);",
           "mbarrier_arrive_expect_tx(full + 8 * slot.stage, kSm90BytesA);", "DEADLOCK|in flight"),
    Mutant("sm90: the producer does not wait for empty stages", SM90,
           "            mbarrier_wait(empty + 8 * slot.stage, slot.phase ^ 1);\n", "",
           "in flight|overwrites|may still read|more arrivals"),
    Mutant("sm90: no barrier after mbarrier.init", SM90,
           "    fence_mbarrier_init();\n  }\n  __syncthreads();", "    fence_mbarrier_init();\n  }",
           "before mbarrier.init|not ordered after its init"),
    Mutant("sm90: no fence after mbarrier.init", SM90,
           "    fence_mbarrier_init();\n", "", "without fence.mbarrier_init"),
    Mutant("sm90: a stage is released while wgmma reads it", SM90,
           "wgmma_wait<1>();\n        if (step > 0 && lane == 0) mbarrier_arrive(empty + 8 * previous);\n"
           "        previous = slot.stage;",
           "if (lane == 0) mbarrier_arrive(empty + 8 * slot.stage);\n        wgmma_wait<1>();\n"
           "        previous = slot.stage;",
           "may still read|more arrivals|RACE"),
    Mutant("sm90: wait_group too weak", SM90,
           "wgmma_wait<1>();\n        if (step > 0", "wgmma_wait<2>();\n        if (step > 0", "may still read|RACE"),
    Mutant("sm90: one arrival a warpgroup, though warps finish apart", SM90,
           "mbarrier_init(empty + 8 * i, 8);", "mbarrier_init(empty + 8 * i, 2);", "may still read|more arrivals|RACE"),
    Mutant("sm90: no wgmma.fence", SM90,
           "        wgmma_fence();\n", "", "wgmma without wgmma.fence"),
    Mutant("sm90: accumulators read before the last wait", SM90,
           "      wgmma_wait<0>();\n      if (lane == 0) mbarrier_arrive(empty + 8 * previous);",
           "      if (lane == 0) mbarrier_arrive(empty + 8 * previous);", "may still read|in flight|numbers|RACE"),
    Mutant("sm90: no proxy fence before the TMA store", SM90,
           "      fence_proxy_async();\n      named_barrier", "      named_barrier", "without fence.proxy.async"),
    Mutant("sm90: no barrier before the TMA store", SM90,
           "      fence_proxy_async();\n      named_barrier(1 + half, 128);\n", "      fence_proxy_async();\n",
           "RACE|without fence|uninitialised|in flight"),
    Mutant("sm90: the staging tile is overwritten while it is stored", SM90,
           "        tma_store_wait_read();  // the last tile has left the staging tile\n", "",
           "may still read|in flight|TMA store"),
    Mutant("sm90: the block leaves while a TMA store reads", SM90,
           "    if (thread == 0) tma_store_wait_read();", "    if (false) tma_store_wait_read();",
           "exits with TMA stores in flight"),
    Mutant("sm90: the residual is read before it has landed", SM90,
           "        mbarrier_wait(loaded, residual_phase);\n", "        named_barrier(1 + half, 128);\n",
           "in flight|RACE|uninitialised", residual=True),
    Mutant("sm90: x without swizzle", HOST90,
           "request = {p.dtype, 4, base, {}, {}, {}, {1, 1, 1, 1}, 128, false};",
           "request = {p.dtype, 4, base, {}, {}, {}, {1, 1, 1, 1}, 64, false};",
           "numbers|unsupported|swizzle span|in flight"),
    Mutant("sm90: wrong advance along k", SM90,
           "descriptor_a + i * kWgmmaDepthStep,", "descriptor_a + i * 2 * kWgmmaDepthStep,", "numbers|RACE"),
    Mutant("resident: the filter is read before it has landed", RESIDENT,
           "    mbarrier_wait(filter_full, 0);\n", "", "in flight|uninitialised|RACE"),
    Mutant("resident: the box is announced without its halo", RESIDENT,
           "(kSm90Pixels + ((R - 1) << params.log_tile_w)) * kSm90RowBytes;", "kSm90Pixels * kSm90RowBytes;",
           "DEADLOCK|in flight"),
    Mutant("resident: a tap begins at the wrong row", RESIDENT,
           "wgmma_descriptor(a + r * row_bytes)", "wgmma_descriptor(a + r * 1024)", "numbers"),
    Mutant("resident: taps in the wrong order", RESIDENT,
           "filter + (r * S + s) * kSm90FilterBytes", "filter + (s * R + r) * kSm90FilterBytes", "numbers"),
    Mutant("resident: a stage is released while wgmma reads it", RESIDENT,
           "if (s > 0 && lane == 0) mbarrier_arrive(empty + 8 * previous);",
           "if (lane == 0) mbarrier_arrive(empty + 8 * slot.stage);", "may still read|more arrivals|RACE"),
    Mutant("stem: no barrier between the patch and the products", STEM,
           "    cp_async_wait<0>();\n    __syncthreads();  // patch, weight and offsets are there\n",
           "    cp_async_wait<0>();\n", "RACE|in flight|uninitialised"),
    Mutant("stem: the weight is not waited for", STEM,
           "    cp_async_wait<0>();\n", "", "in flight|uninitialised|RACE"),
    Mutant("stem: the patch is overwritten while it is read", STEM,
           "    __syncthreads();  // the patch has been read\n", "", "RACE"),
    Mutant("stem: no barrier between the sums and their maxima", STEM,
           "    __syncthreads();\n\n    constexpr int kVectors", "    constexpr int kVectors", "RACE|uninitialised"),
    Mutant("stem: the next patch takes the place of sums still to be read", STEM,
           "    __syncthreads();  // before the next patch takes the place\n", "", "RACE"),
    Mutant("stem: a patch without its last row", STEM,
           "(params->rows - 1) * conv.stride_h + (conv.R - 1) * conv.dilation_h + 1",
           "(params->rows - 1) * conv.stride_h + (conv.R - 1) * conv.dilation_h",
           "uninitialised|out of bounds|numbers"),
    Mutant("stem: a tile without its windows' last row", STEM,
           "(tile_p - 1) * pool.stride_h + (pool.kernel_h - 1) * pool.dilation_h + 1",
           "(tile_p - 1) * pool.stride_h + (pool.kernel_h - 1) * pool.dilation_h",
           "uninitialised|out of bounds|numbers"),
    Mutant("stem: maxima that start at zero", STEM, "best.value[e] = -INFINITY;", "best.value[e] = 0.0f;", "numbers"),
    Mutant("stem: the pool's padding counts", STEM, "if (row0 + row < 0 || row0 + row >= pool.H) continue;",
           "if (row0 + row >= pool.H) continue;", "numbers"),
    Mutant("stem: what the last window overhangs counts", STEM,
           "if (column0 + column < 0 || column0 + column >= pool.W) continue;",
           "if (column0 + column < 0) continue;", "numbers"),
    Mutant("stem: rows above the image are read", STEM, "const bool inside = h >= 0 && h < conv.H &&",
           "const bool inside = h < conv.H &&", "global memory out of bounds|numbers"),
    Mutant("stem: taps past the last are read", STEM, "if (tap >= 0) words =", "words =",
           "misaligned|numbers|uninitialised|RACE"),
    Mutant("stem: a tile's pixels past the image are stored", STEM,
           "if (p0 + p >= pool.P || q0 + q >= pool.Q || k >= K)",
           "if (q0 + q >= pool.Q || k >= K)", "global memory out of bounds|RACE|numbers"),
    Mutant("sm90: barriers in the staging tile's place", SM90,
           "const uint32_t full = staging + 2 * Tile::kHalfBytes, empty",
           "const uint32_t full = staging + Tile::kHalfBytes, empty",
           "RACE|mbarrier|in flight|may still read|DEADLOCK"),
    Mutant("sm90: a full barrier in an empty one's place", SM90,
           "empty = full + 8 * kStages,", "empty = full + 8 * (kStages - 1),", "more arrivals|DEADLOCK|RACE|in flight"),
    Mutant("sm90: the full barriers are initialised again for each tile", SM90,
           "const Sm90Position at = tile_position(params, tile, kN); const int h0",
           "for (int i = 0; i < kStages; i++) mbarrier_init(full + 8 * i, 1);\n"
           "        const Sm90Position at = tile_position(params, tile, kN);\n        const int h0",
           "RACE|DEADLOCK|without fence|in flight"),
    Mutant("sm90: a full barrier waits for two arrivals", SM90,
           "mbarrier_init(full + 8 * i, 1);", "mbarrier_init(full + 8 * i, 2);", "DEADLOCK"),
    Mutant("sm90: expect_tx too large", SM90,
           "mbarrier_arrive_expect_tx(full + 8 * slot.stage, Tile::kStageBytes);",
           "mbarrier_arrive_expect_tx(full + 8 * slot.stage, Tile::kStageBytes + 128);", "DEADLOCK"),
    Mutant("sm90: the residual is announced with half its bytes", SM90,
           "mbarrier_arrive_expect_tx(loaded, Tile::kHalfBytes);",
           "mbarrier_arrive_expect_tx(loaded, Tile::kHalfBytes / 2);",
           "DEADLOCK|in flight|RACE|uninitialised|numbers", residual=True),
    Mutant("sm90: the residual's phase does not change", SM90,
           "      residual_phase ^= 1;\n", "", "in flight|RACE|uninitialised|numbers", residual=True),
    Mutant("sm90: the last stage of a tile is not released", SM90,
           "wgmma_wait<0>();\n      if (lane == 0) mbarrier_arrive(empty + 8 * previous);", "wgmma_wait<0>();",
           "DEADLOCK"),
    Mutant("sm90: the ring's phase does not change", SM90,
           "      stage = 0;\n      phase ^= 1;", "      stage = 0;", "more arrivals|DEADLOCK|in flight|RACE"),
    Mutant("sm90: consumers take other tiles than the producer", SM90,
           "output.begin(tile_position(params, tile, kN));", "output.begin(tile_position(params, tile + 1, kN));",
           "numbers|global memory"),
    Mutant("sm90: products of one tile are added to the next one's", SM90,
           "step + i != 0);", "1);", "numbers|uninitialised"),
    Mutant("sm90: no commit of the products", SM90,
           "        wgmma_commit();\n        // One group", "        // One group",
           "in flight|may still read|numbers|RACE"),
    Mutant("sm90: both halves are stored at the first one's place", SM90,
           "n = at.n + half * params.half_n;", "n = at.n;", "numbers|global"),
    Mutant("sm90: one bias for a pair of channels", SM90,
           "bias1 = to_float(both.second);", "bias1 = to_float(both.first);", "numbers"),
    Mutant("resident: the filter is announced without its last tap", RESIDENT,
           "mbarrier_arrive_expect_tx(filter_full, R * S * kSm90FilterBytes);",
           "mbarrier_arrive_expect_tx(filter_full, (R * S - 1) * kSm90FilterBytes);",
           "DEADLOCK|in flight|RACE|uninitialised"),
    Mutant("grouped: no barrier between the weights and their use", GROUPED,
           "  __syncthreads();\n", "", "RACE|uninitialised"),
    Mutant("grouped: rows below the image are read", GROUPED,
           "if (h < 0 || h >= p.H) continue;", "if (h < 0) continue;", "global memory out of bounds|numbers"),
    Mutant("grouped: columns left of the image are read", GROUPED,
           "if (w >= 0 && w < p.W) in[i]", "if (w < p.W) in[i]", "global memory out of bounds|numbers"),
    Mutant("grouped: pixels past a row's end are stored", GROUPED,
           "if (q0 + i < p.Q)", "if (q0 + i <= p.Q)", "global memory out of bounds|RACE|numbers"),
    Mutant("grouped: taps in the wrong order", GROUPED,
           "((r * S + s) * kGroup + j) * row", "((s * R + r) * kGroup + j) * row", "numbers"),
    Mutant("grouped: another channel of the group", GROUPED,
           "in[i].value[e / kGroup * kGroup + j]", "in[i].value[e / kGroup * kGroup + kGroup - 1 - j]", "numbers"),
    Mutant("grouped: channels past the last are computed", GROUPED,
           "  if (k >= p.K) return;\n", "", "global memory out of bounds|numbers"),
    Mutant("grouped: too little shared memory for the weights", GROUPED,
           "* 16 * p.R * p.S * kGroup, stream", "* 16 * p.R * p.S, stream", "shared memory out of bounds"),
    Mutant("stem: one row's weights for all channels", STEM, "lane * kTapBytes;", "t * kTapBytes;", "numbers"),
]  # fmt: skip

HARNESS = Path(__file__).parents[1] / "cuda"


def seed(mutant: Mutant, folder: Path) -> Path:
    """A folder with the changed file, to be found before csrc. The change must fit exactly one place."""
    text = (emulation.CSRC / mutant.file).read_text("utf-8")
    # clang-format may break a line anywhere: white space in `find` matches any white space.
    pattern = r"\s+".join(re.escape(word) for word in mutant.find.split())
    leading = r"[ \t]*" if mutant.find[:1].isspace() else ""
    places = re.findall(leading + pattern, text)
    assert len(places) == 1, f"{mutant.name}: {len(places)} places match"
    text = re.sub(leading + pattern, lambda _: mutant.replace, text)
    if "no_swizzle" in mutant.replace:
        text = text.replace(
            "// Walks k =",
            "__device__ __forceinline__ uint32_t no_swizzle(int row, int chunk) { return row * 64 + chunk * 16; }\n"
            "// Walks k =",
        )
    target = folder / mutant.file
    target.parent.mkdir(parents=True)
    target.write_text(text, "utf-8")
    header = folder / SM90
    if header.parent.exists():
        header.write_text(one_width((header if header.exists() else emulation.CSRC / SM90).read_text("utf-8")))
    return folder


def one_width(text: str) -> str:
    """The Hopper kernel's header with the one width of tile that mutants run: a tenth of the compilation."""
    return re.sub(r"(WIDTHS_16BIT\(X\)) \\\n.*", r"\1 X(64)", text)


def build(overlay: Path) -> emulation.Emulator:
    return emulation.Emulator(emulation.build(overlay=overlay))


def judge(emulator: emulation.Emulator, mutant: Mutant) -> str:
    """What is found: a finding's text, "numbers" where only the result is wrong, "" where nothing is."""
    import sys

    sys.path.insert(0, str(HARNESS))
    import harness
    import test_conv2d
    import test_conv2d_max_pool2d
    import torch

    # Twelve tiles for four persistent blocks, the last of a row and of a column ragged.
    stem = test_conv2d_max_pool2d.Stem(H=19, W=19, pool_pad=(1, 1), ceil=True, activation=None, tile=(4, 5))
    # Five Hopper tiles for two persistent blocks.
    conv = test_conv2d.Conv(N=10, C=64, K=64, H=8, W=8, residual=mutant.residual, activation="relu")
    if mutant.file == GROUPED:  # ten vectors of channels for blocks of sixteen, rows that end within a strip
        conv = test_conv2d.replace(test_conv2d.BASE, C=80, K=80, H=5, W=6, groups=20, activation="relu")
    elif mutant.residual and mutant.file != RESIDENT:  # a short sum, so that the residual may be the last to arrive
        conv = test_conv2d.replace(conv, kernel=(1, 1), pad=(0, 0))
    if mutant.ragged:
        conv = test_conv2d.replace(conv, H=7, W=7)
    numbers = False
    for order in ("random", "forward", "reverse"):
        for lazy in (True, False):
            runner = harness.Emulated(order, lazy, emulator=emulator)
            plan = (
                test_conv2d.RESIDENT if mutant.file == RESIDENT
                else test_conv2d.grouped(torch.float16) if mutant.file == GROUPED
                else test_conv2d.sm90(runner, 64) if "sm90" in mutant.file else test_conv2d.sm80()
            )  # fmt: skip
            try:
                if mutant.file == STEM:
                    test_conv2d_max_pool2d.run(runner, stem, torch.float16)
                else:
                    test_conv2d.run(runner, conv, torch.float16, plan)
            except RuntimeError as error:
                return str(error)
            except AssertionError:
                numbers = True
    return "numbers" if numbers else ""


def check(mutant: Mutant, tmp_path: Path) -> None:
    found = judge(build(seed(mutant, tmp_path)), mutant)
    assert re.search(mutant.finding, found), f"{mutant.name}: found {found!r}, expected {mutant.finding!r}"


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_mutants(mutant, tmp_path):
    check(mutant, tmp_path)


def test_every_mutant_fits_the_sources(tmp_path):
    for i, mutant in enumerate(MUTANTS):
        seed(mutant, tmp_path / str(i))


@pytest.mark.slow
def test_the_unchanged_kernels_are_clean(tmp_path):
    nothing = Mutant("none", SM80, "kStages = kStages_", "kStages = kStages_", "")
    emulator = build(seed(nothing, tmp_path))
    for file in (SM80, SM90, RESIDENT, GROUPED, STEM):
        assert judge(emulator, Mutant("none", file, "", "", "", residual=True, ragged=True)) == ""
