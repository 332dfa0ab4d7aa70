"""What the documentation promises of the memory that a network holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastcnn.workbench.report import memory
from fastcnn.workbench.report.cases import Case


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("network", ["vgg16", "resnet50"])
def test_without_prepack_a_network_holds_less(network: str) -> None:
    case = Case("network", network, network, 1)
    unpacked, packed = (memory.measure(case, contender, 2) for contender in ("fastcnn_unpacked", "fastcnn"))
    assert unpacked is not None
    assert packed is not None
    assert unpacked < 0.9 * packed
