"""The benchmark of tuning: its splits, and its pages from results that are known."""

import json
import math

import numpy as np
import pytest

pytest.importorskip(
    "bench.shared.measures", reason="the benchmarks are not part of this distribution"
)
pytest.importorskip("pyarrow", reason="tables need the extra [cli]")
from bench import tuning

ABOUT = {
    "machine": {"processor": "p", "threads": 2, "system": "s", "versions": {}},
    "date": "2026-01-01T00:00:00+00:00",
    "command": "c",
}


def test_ratios_of_speeds_are_medians_of_those_within_rounds():
    times = {
        "together": [[1.0, 2.0], [2.0, 2.0], [4.0, 2.0]],
        "apart": [[3.0, 2.0], [4.0, 3.0], [4.0, 5.0]],
        "search": [[1.0, 1.0]],
        "runs": [[2.5, 1.5]],
    }
    text = tuning.speed_page({**ABOUT, "busy": "", "times": times})
    assert "| 3.00 | 2.00 | 2.00 | 1.50 |" in text
    assert "| 2.50 | 1.50 | 2.50 | 1.50 |" in text


def test_a_table_has_the_best_trial_beside_the_default_on_the_same_rows():
    def fit(loss, accuracy, unseen):
        test = {"log loss": loss, "accuracy": accuracy}
        return {"test": test, "out of fold": {"out-of-fold log loss": unseen}, "seconds": 10.0}

    trials = [{"drawn": {"dropout": 0.0}, "losses": [0.4, 0.2]}, {"drawn": {}, "losses": [0.3]}]
    tuned = {**fit(0.21, 0.95, 0.22), "trials": trials, "seconds": 49.0}
    defaults = [fit(0.5, 0.8, 0.31), fit(0.3, 0.9, 0.29)]
    row = [*tuning.row_of({"defaults": defaults, "tuned": tuned})]
    assert " ".join(row) == (
        "0.3000 0.2000 0.2900 0.2200 0.4000 0.3000 0.2100 0.8500 0.9500 2 50 49"
    )
    page = tuning.scores_page({**ABOUT, "tables": {"t": {"defaults": defaults, "tuned": tuned}}})
    assert f"| t | {' | '.join(row)} |" in page
    assert len(row) + 1 == len(tuning.COLUMNS)


def test_errors_are_log_loss_or_rmse():
    assert tuning.error_of({"RMSE": 2.0}) == 2.0
    assert tuning.error_of({"log loss": 0.5, "RMSE": 2.0}) == 0.5
    assert math.isnan(tuning.error_of({}, "out-of-fold "))
    assert tuning.cell(math.nan) == ""


def test_all_runs_of_a_table_have_the_same_test_rows():
    pytest.importorskip("sklearn")
    one, other = (tuning.examples_of("diabetes", "") for _ in range(2))
    assert one.test is not None
    assert len(one.test.y) == 88
    assert len(one.y) == 354
    assert other.test is not None
    np.testing.assert_array_equal(one.test.y, other.test.y)


def test_a_search_and_its_fit_keep_to_the_processor_time(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(tuning.Clock, "now", tuning.Clock.now)  # is put back afterwards
    monkeypatch.setattr(tuning, "tune", lambda examples, **how: seen.append(how) or rungs())
    monkeypatch.setattr(tuning, "fitted", lambda examples, settings: {"test": settings})
    seen = []

    class Rung:
        ranking, metric, settings = (), "RMSE", "the best"

    def rungs():
        yield None
        yield Rung

    tuning.tune_worker("diabetes", "", "1e6")
    [how] = seen
    assert 0 < 1e6 - how["seconds"] < 1e5
    assert json.loads(capsys.readouterr().out)["test"] == "the best"
