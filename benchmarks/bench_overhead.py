"""The cost of a call: operators with as little work as they can have, and the door that training uses."""

import pytest
from conftest import CLOCK

KIND = "overhead"


@pytest.mark.benchmark(timer=CLOCK)
def test_overhead(compete, case, contender):
    compete(case, contender)
