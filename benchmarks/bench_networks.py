"""The networks, and their cost as images grow."""

import pytest
from conftest import CLOCK

KIND = "network"


@pytest.mark.benchmark(timer=CLOCK)
def test_network(compete, case, contender):
    compete(case, contender)
