"""The short forms: some hundred mutants of tables, models and checkpoints, each in its worker.

`python -m tests.fuzz tables 100000`, and `headers` and `bytes` likewise, are the long ones.
"""

import sys
from collections import Counter

import pytest

if sys.platform != "linux":
    pytest.skip("limits of time and memory are Linux's", allow_module_level=True)
pytest.importorskip("pyarrow", reason="tables need pyarrow (the extra [cli])")
pytest.importorskip("sklearn", reason="the estimators need scikit-learn")

from tests.fuzz.faults import judge_of_faults
from tests.fuzz.headers import judge_bytes, judge_headers
from tests.fuzz.pool import run
from tests.fuzz.tables import judge_tables


# How many, and of how many at least: that are of use, and different words of refusal.
@pytest.mark.parametrize(
    ("subject", "n", "useful", "refusals"),
    [(judge_tables, 300, 6, 25), (judge_headers, 200, 4, 15), (judge_bytes, 1000, 0, 70)],
)
def test_a_file_is_refused_in_words_or_is_of_use(subject, n, useful, refusals):
    outcomes = list(run(subject, range(n)))
    assert [outcome for outcome in outcomes if outcome.is_fault] == []
    kinds = Counter(outcome.kind for outcome in outcomes)
    assert kinds["refused"] + kinds["of use"] == n
    assert kinds["of use"] >= useful
    assert len({outcome.words for outcome in outcomes}) > refusals


# The test of the test: faults that are found


def test_deaths_hangs_and_other_errors_are_found():
    found = {outcome.seed: outcome for outcome in run(judge_of_faults, range(7))}
    kinds = {seed: outcome.kind for seed, outcome in found.items()}
    assert kinds == {
        0: "of use",
        1: "death",
        2: "hang",
        3: "KeyError",
        4: "MemoryError",
        5: "no name",
        6: "of use",
    }
    assert [seed for seed in found if found[seed].is_fault] == [1, 2, 3, 4, 5]
    assert found[1].words == "exit code -11"
    assert "a key" in found[3].words
