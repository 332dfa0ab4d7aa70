from collections.abc import Iterator

import pytest

from fastcnn import _C


@pytest.fixture(params=_C.cpu.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this processor has, one after the other."""
    before = _C.cpu.isa()
    _C.cpu.set_isa(request.param)
    yield request.param
    _C.cpu.set_isa(before)
