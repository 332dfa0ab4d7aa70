import pytest
import torch


@pytest.fixture(autouse=True)
def without_gradients():
    """Plans run where nobody asks for gradients; a test that does enables them."""
    with torch.no_grad():
        yield
