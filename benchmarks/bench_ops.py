"""Every operator at the layer shapes of the networks."""

import pytest
from conftest import CLOCK

KIND = "op"


@pytest.mark.benchmark(timer=CLOCK)
def test_op(compete, case, contender):
    compete(case, contender)
