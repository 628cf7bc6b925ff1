"""Each set of kernels alone: the time that it saves in a step, compared with the definition."""

import numpy as np
import pytest

from bench.shared.shapes import SHAPES, TABLE
from bench.suites.test_core import step


@pytest.mark.parametrize("shape", [*SHAPES, TABLE], ids=lambda shape: shape.name)
def test_kernels(race, kernels, shape):
    """A training step with one set of kernels switched on, or with the definition."""
    facts = race(step, shape, group="kernels", case=shape.name)
    assert np.isfinite(facts["loss"])
