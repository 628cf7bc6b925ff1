"""The tables: their rows are divided fairly, and what is made of errors is right."""

import numpy as np
import pytest

pytest.importorskip(
    "bench.shared.measures", reason="the benchmarks are not part of this distribution"
)
pytest.importorskip("sklearn")
pd = pytest.importorskip("pandas")

from bench.peers.tables import contestants, data
from bench.shared import errors

FOUND = {
    "tree": {"a": 2.0, "b": 4.0},
    "wood": {"a": 4.0, "b": 3.0},
    "net": {"a": 1.0, "b": 4.0, "c": 7.0},
}


def test_gaps_are_to_the_best_reference_of_each_table():
    found = errors.gaps(FOUND, ["tree", "wood", "absent"])
    assert found["net"] == {"a": -0.5, "b": pytest.approx(1 / 3)}  # c has no reference
    assert found["tree"] == {"a": 0.0, "b": pytest.approx(1 / 3)}


def test_equal_errors_share_their_ranks():
    assert errors.common(FOUND) == ["a", "b"]
    assert errors.ranks(FOUND, ["a", "b"]) == {"tree": 2.25, "wood": 2.0, "net": 1.75}


def test_means_are_over_the_seeds_that_had_no_problem():
    runs = [
        {"contestant": "net", "table": "a", "seed": 0, "error": 1.0},
        {"contestant": "net", "table": "a", "seed": 1, "error": 3.0},
        {"contestant": "net", "table": "b", "seed": 0, "problem": "no memory"},
        {"contestant": "tree", "table": "a", "seed": 0, "error": 5.0},
    ]
    assert errors.means(runs, "error", ["tree", "net", "wood"]) == {
        "tree": {"a": 5.0},
        "net": {"a": 2.0},
    }
    assert errors.note(runs) == ["tree: 1 of 2 seeds on a.", "net, b: no memory."]


def test_the_summary_is_of_the_tables_that_all_have():
    text = errors.summary(FOUND, FOUND, ["tree", "wood"], {"a": 1000, "b": 20, "c": 3})
    lines = text.splitlines()
    assert lines[0] == "| table | rows | tree | wood | net |"
    assert "| a | 1,000 | 2 (+0.0%) | 4 (+100.0%) | 1 (-50.0%) |" in lines
    assert "| c | 3 |  |  | 7 |" in lines
    assert "| **mean gap** | | +16.7% | +50.0% | -8.3% |" in lines
    assert "| **mean CPU seconds** | | 3.0 | 3.5 | 2.5 |" in lines
    assert lines[-1] == "The last four rows are of the tables that all have: a, b."


def test_who_is_not_installed_is_left_out_with_a_sentence():
    names = ["XGBoost", "nnaccel", "TabM-D"]
    can, cannot = contestants.installed(names, {"xgboost": True}.get)
    assert can == ["XGBoost", "nnaccel"]
    assert cannot == ["TabM-D is left out: pytabkit is not installed."]


def test_what_classes_are():
    assert data.are_classes(np.array(["yes", "no"], dtype=object))
    assert data.are_classes(np.array([3, 1, 2] * 9))
    assert not data.are_classes(np.arange(30))
    assert not data.are_classes(np.array([1.0, 2.0]))


def test_a_fifth_is_held_out_with_the_same_share_of_each_class():
    y = np.repeat([0, 1], [80, 20])
    kept, held_out = data.divide(y, classes=2, seed=3)
    assert len(held_out) == 20
    assert y[held_out].sum() == 4
    assert sorted([*kept, *held_out]) == list(range(100))
    assert (data.divide(y, classes=2, seed=3)[1] == held_out).all()


def test_text_is_categories_of_the_training_rows_and_missing_stays_so(tmp_path):
    (tmp_path / "t_train.csv").write_text("n,word,target\n1,a,x\n,None,y\n3,,x\n")
    (tmp_path / "t_test.csv").write_text("n,word,target\n4,b,y\n5,a,x\n")
    (table,) = data.pairs(tmp_path)
    rows = data.read(table)
    assert (table.name, rows.classes) == ("t", 2)
    assert list(rows.X["word"].cat.categories) == ["None", "a"]
    assert list(rows.X.isna().sum()) == [1, 1]
    assert list(rows.X_test["word"].isna()) == [True, False]  # b is new
    assert rows.y.tolist() == [0, 1, 0]
    assert rows.y_test.tolist() == [1, 0]
    assert data.error(rows, np.array([[0.1, 0.9], [0.8, 0.2]])) == 0.0


def test_a_table_without_a_test_gives_up_a_fifth(tmp_path):
    path = tmp_path / "line.csv"
    path.write_text("n,y\n" + "".join(f"{i},{i / 4}\n" for i in range(50)))
    rows = data.read(data.single(path, "y", None))
    assert (len(rows.y), len(rows.y_test), rows.classes) == (40, 10, 0)
    assert (rows.X_test["n"] / 4 == rows.y_test).all()
    assert data.error(rows, rows.y_test + 2.0) == pytest.approx(2.0)
