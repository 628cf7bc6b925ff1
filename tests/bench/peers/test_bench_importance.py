"""Permutation importance beside scikit-learn's: the contestants find the same."""

import numpy as np
import pytest

pytest.importorskip(
    "bench.shared.measures", reason="the benchmarks are not part of this distribution"
)
pytest.importorskip("pyarrow", reason="tables need the extra [cli]")
pytest.importorskip("pandas", reason="scikit-learn's encoding of a table takes a data frame")
from bench.peers import importance


@pytest.mark.parametrize("table", importance.TABLES)
@pytest.mark.filterwarnings("ignore")
def test_the_contestants_find_the_same(table, monkeypatch):
    monkeypatch.setattr(importance, "N", 2000)
    found = {name: make()() for name, make in importance.calls(table).items()}
    assert [*found] == [*importance.CONTESTANTS]
    same = found["nnaccel"], found["scikit-learn of nnaccel"]
    np.testing.assert_allclose(*same, rtol=0, atol=1e-9)
    assert found["scikit-learn"].shape == (20, 5)
    assert (
        found["scikit-learn"].mean(axis=1).argmax() == found["nnaccel"].mean(axis=1).argmax() == 2
    )


def test_ratios_are_the_median_of_those_within_rounds():
    times = {"nnaccel": [0.1, 0.2, 0.1], "scikit-learn": [2.0, 3.0, 1.0]}
    machine = {"processor": "p", "threads": 2, "system": "s", "versions": {}}
    found = {"machine": machine, "date": "2026-01-01T00:00:00+00:00", "command": "c"}
    found["tables"] = {"numbers": {name: {"times": each} for name, each in times.items()}}
    text = importance.summary(found)
    assert "| numbers | nnaccel | 0.10 | 1.0 |" in text
    assert "| numbers | scikit-learn | 1.00 | 15.0 |" in text
