"""Where examples come from, and what is said about what is no source."""

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="tables need pyarrow (the extra [cli])")
from pyarrow import csv, feather, parquet

from nnaccel.tabular.datasets import NAMES
from nnaccel.tabular.sources import (
    read,
    take,
)

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", "y", None], "y": [0.5, 1.5, 2.5]})


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_data_set(name):
    examples = read(name)
    assert examples.source == name
    assert examples.data.shape == (len(examples.y), len(examples.names))
    assert examples.task in ("classification", "regression")
    assert examples.test is None
    assert examples.pixels == (name == "digits")
    assert read(name, examples.target).target == examples.target


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv", csv.write_csv),
        ("t.parquet", parquet.write_table),
        ("t.feather", feather.write_feather),
    ],
)
def test_a_table(tmp_path, name, write):
    write(TABLE, str(tmp_path / name))
    examples = read(str(tmp_path / name), "y")
    assert examples.source == "t"
    assert examples.data.column_names == ["a", "b"]
    assert examples.y.to_pylist() == (["0.5", "1.5", "2.5"] if name == "t.csv" else [0.5, 1.5, 2.5])
    assert examples.written
    assert (examples.target, examples.names, examples.test) == ("y", None, None)
    assert not examples.pixels


def test_the_name_of_a_compressed_table_has_no_extension(tmp_path):
    with pa.CompressedOutputStream(str(tmp_path / "t.csv.gz"), "gzip") as sink:
        csv.write_csv(TABLE, sink)
    assert read(str(tmp_path / "t.csv.gz"), "y").source == "t"


def test_without_a_need_for_the_target_a_table_may_lack_it(tmp_path):
    csv.write_csv(TABLE, str(tmp_path / "t.csv"))
    for target in (None, "z"):
        examples = read(str(tmp_path / "t.csv"), target, need_target=False)
        assert examples.y is None
        assert examples.data.column_names == ["a", "b", "y"]
    y = read(str(tmp_path / "t.csv"), "y", need_target=False).y
    assert y.to_pylist() == ["0.5", "1.5", "2.5"]


def test_an_npz_file(tmp_path):
    X, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])
    np.savez(tmp_path / "one.npz", X=X, y=y)
    np.savez(tmp_path / "two.npz", X_train=X, y_train=y, X_test=X[:1], y_test=y[:1])
    one, two = (read(str(tmp_path / name)) for name in ("one.npz", "two.npz"))
    assert (one.source, one.target, one.task, one.test) == ("one", "y", "auto", None)
    np.testing.assert_array_equal(two.data, X)
    np.testing.assert_array_equal(two.test[0], X[:1])
    np.testing.assert_array_equal(two.test[1], y[:1])


def test_bytes_are_pixels(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.zeros((3, 2), np.uint8), y=[0, 1, 0])
    assert read(str(tmp_path / "t.npz")).pixels


def test_rows_of_an_array_a_table_and_a_column():
    rows = np.array([2, 0])
    assert take(np.arange(3.0), rows).tolist() == [2.0, 0.0]
    assert take(TABLE, rows)["a"].to_pylist() == [3, 1]
    assert take(TABLE["y"], rows).to_pylist() == [2.5, 0.5]


@pytest.mark.parametrize(
    ("source", "target", "error", "message"),
    [
        ("diggits", None, FileNotFoundError, "'diggits' is neither .*; did you mean 'digits'\\?"),
        ("t.cvs", "y", FileNotFoundError, "no such file; did you mean 't.csv'"),
        ("", None, IsADirectoryError, "is a folder"),
        (
            "t.csv",
            None,
            ValueError,
            "t.csv: no target column named; pass --target .* y; .*; read with separator ','",
        ),
        (
            "t.csv",
            "Y",
            ValueError,
            "t.csv: no column named 'Y'; .*did you mean 'y'.; read with .* line 1 as header",
        ),
        ("iris", "specie", ValueError, "'iris' has the target 'species', and no 'specie'"),
        ("t.xlsx", "y", ValueError, "unknown kind of file '.xlsx'"),
    ],
)
def test_what_is_no_source(tmp_path, monkeypatch, source, target, error, message):
    monkeypatch.chdir(tmp_path)
    csv.write_csv(TABLE, "t.csv")
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(error, match=message):
        read(source, target)


def test_a_data_set_is_read_whatever_the_target_of_a_model_that_only_predicts():
    assert read("iris", "label", need_target=False).data.shape == (150, 4)
