"""What the tests of the estimators share."""

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # before SciPy: its checks of array libraries need it

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch's threads would fight for the cores with NumPy's, which are used beside them."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
