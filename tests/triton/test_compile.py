"""What the compiler makes of the kernels, read from their machine code: no GPU is needed, and none is used."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from fastcnn.backends.triton.target import TARGETS
from fastcnn.workbench.verify.triton_sweep import Row, compile_table

UNIT = {80: "mma", 90: "wgmma", 100: "tcgen05"}


def assert_sound(row: Row) -> None:
    """It compiles, nothing spills, it fits, its accesses are wide, its products run on tensor cores."""
    assert row.facts is not None, f"{row.case} sm_{row.arch}: {row.error}"
    found = row.facts
    where = f"{row.case} sm_{row.arch}: {found}"
    assert found.stack_bytes == 0, f"spills: {where}"
    assert found.shared_bytes <= TARGETS[row.arch].shared_per_block, where
    assert found.blocks_per_sm >= 1, where
    if "conv2d" in row.case or "1x1" in row.case:
        if "splits" not in row.case or "sum of" not in row.case:
            assert found.tensor_core, f"no tensor-core instruction: {where}"
            if "128x" in row.case and "LeNet" not in row.case:
                assert UNIT[row.arch] in found.tensor_core, f"not the architecture's own unit: {where}"
        ragged = any(name in row.case for name in ("stem", "LeNet"))
        assert ragged or found.load_bits == 128 or found.tma, f"narrow loads: {where}"
    elif any(row.case.startswith(name) for name in ("max_pool2d", "avg_pool2d", "add_relu", "copy_slice", "adaptive")):
        assert found.load_bits == 128, f"narrow loads: {where}"


@pytest.mark.parametrize(
    ("only", "archs"),
    [
        ("res2 3x3", (80, 90, 100)),
        ("linear batch 1:", (90,)),
        ("merged 1x1", (90,)),
        ("conv2d_max_pool2d LeNet stem float16", (80, 90, 100)),
        ("add_relu float", (80, 90)),
        ("max_pool2d float16", (90,)),
    ],
)
def test_default_choices(only, archs):
    rows = compile_table(archs, only=only, workers=2)
    assert rows
    for row in rows:
        assert_sound(row)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_every_choice(arch):
    """Every configuration that can be chosen, in every dtype."""
    failures = []
    for row in compile_table((arch,), every=True):
        try:
            assert_sound(row)
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)
