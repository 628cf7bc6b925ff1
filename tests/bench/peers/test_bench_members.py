"""Several networks at once: the contestants train the same, and ratios are within rounds."""

import numpy as np
import pytest

pytest.importorskip(
    "bench.shared.measures", reason="the benchmarks are not part of this distribution"
)
from bench.peers import members


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(members, "N", 200)
    monkeypatch.setattr(members, "BINS", 4)


def test_together_one_by_one_and_without_numba_are_the_same_runs():
    losses = {}
    for name in members.CONTESTANTS:
        found = [next(each).loss for each in members.runs_of(name)]
        losses[name] = np.concatenate([np.atleast_1d(loss) for loss in found])
        assert losses[name].shape == (members.K,)
    for name in ("one by one", "without Numba"):
        np.testing.assert_allclose(losses[name], losses["together"], rtol=1e-4)
    assert not np.allclose(losses["whole runs"], losses["together"], rtol=1e-4)


def test_ratios_are_the_median_of_those_within_rounds():
    times = {"whole runs, 1": [1.0, 2.0, 4.0], "together, 2": [0.5, 1.5, 1.0]}
    machine = {"processor": "p", "threads": 2, "system": "s", "versions": {}}
    found = {"machine": machine, "date": "2026-01-01T00:00:00+00:00", "command": "c"}
    found["epochs"] = {name: {"times": each} for name, each in times.items()}
    text = members.table(found)
    assert "| together, 2 | 500 | 0.50 |" in text
    assert "| whole runs, 1 | 1000 | 1.00 |" in text
