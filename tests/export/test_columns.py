"""What a file of a model is given of a table."""

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="tables need the extra [cli]")

from nnaccel.tabular.tables import TableWarning
from tests.export.examples import fitted, table, target


def test_each_kind_is_what_the_documentation_says():
    columns = table()
    model = fitted(columns, target(columns, "two words"))
    row = {
        "number": ["1,234.5", None], "gaps": [None, "?"], "long tail": [1, 2],
        "codes": ["-9999", "3"], "one value": [None, 1.0], "text": [" red ", "NA"],
        "text without gaps": ["x", None], "many": ["", "level 1"], "flag": ["TRUE", "false"],
        "flag with gaps": [True, None], "date": ["1970-01-02", None],
        "date and time": ["1969-12-31 23:00", "1970-01-01 00:00"], "time": ["01:00", None],
        "duration": ["1 days 00:00:01", None],
    }  # fmt: skip
    found = {name: values.tolist() for name, values in model.inputs(row).items()}
    gone = {name: [i for i, v in enumerate(v) if v != v] for name, v in found.items()}
    assert {name: i for name, i in gone.items() if i} == {
        "number": [1], "gaps": [0, 1], "codes": [0], "one value": [0], "flag with gaps": [1],
        "date": [1], "time": [1], "duration": [1],
    }  # fmt: skip
    assert found["number"][0] == 1234.5
    assert (found["text"], found["many"]) == (["red", ""], ["", "level 1"])
    assert (found["flag"], found["date"][0], found["duration"][0]) == ([1.0, 0.0], 86400, 86401)
    assert (found["date and time"], found["time"][0]) == ([-3600.0, 0.0], 3600)


def test_a_matrix_and_a_table_that_does_not_fit():
    columns = {"a": table()["long tail"], "gaps": table()["long tail"]}
    model = fitted(columns, target(table(), "two words"))
    X = np.array([[1, 2], [3, 4]])
    assert {n: v.tolist() for n, v in model.inputs(X).items()} == {"a": [1, 3], "gaps": [2, 4]}
    with pytest.raises(ValueError, match=r"X has 1 columns, the model was fitted on 2: a, gaps"):
        model.inputs(X[:, :1])
    with pytest.raises(ValueError, match=r"the table lacks 1 of the 2 columns that the model us"):
        model.inputs({"a": [1.0]})
    with pytest.warns(TableWarning, match="columns that the fit did not see, ignored: b"):
        model.inputs({"a": [1.0], "gaps": [1.0], "b": [1.0]})
