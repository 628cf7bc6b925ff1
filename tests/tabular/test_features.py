"""The encoding of tables and matrices. Oracles: scikit-learn's scaler and one-hot encoder."""

import datetime
import decimal
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow", reason="tables need pyarrow (the extra [cli])")
from nnaccel.tabular.encoding import Categorical, Features, Numeric
from nnaccel.tabular.features import fit_features
from nnaccel.tabular.tables import TableWarning


def fit_transform(data, **options):
    features = fit_features(data, **options)
    return features, features.transform(data, "float64")


def column(features, encoded, name):
    return encoded[:, features.names.index(name)]


# ---------------------------------------------------------------------------- fitting tables


def test_hand_worked():
    table = pa.table(
        {
            "age": [20, None, 40],
            "work": ["b", "a", None],
            "tall": [True, False, True],
            "same": [7, 7, 7],
            "income": [1.0, 2.0, 3.0],
        }
    )
    features, encoded = fit_transform(table)
    assert features.names == [
        "age", "income", "age missing", "work=a", "work=b", "work=(missing)", "tall=True",
    ]  # fmt: skip
    root = math.sqrt(1.5)
    np.testing.assert_allclose(
        encoded,
        [[-1, -root, 0, 0, 1, 0, 1], [0, 0, 1, 1, 0, 0, 0], [1, root, 0, 0, 0, 1, 1]],
        rtol=1e-15,
    )
    assert features.dropped == {"same": "constant"}
    assert features.columns == tuple(table.column_names)
    assert features.transform(table).dtype == np.float32


def test_numbers_agree_with_scikit_learn():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    X = np.random.default_rng(0).normal(1e6, [1, 1e-3, 1e5, 3], (500, 4))
    X[::7, 1] = np.nan
    features, encoded = fit_transform(pa.table(list(X.T), names=list("abcd")))
    expected = preprocessing.StandardScaler().fit_transform(X)
    np.testing.assert_allclose(encoded[:, :4], np.nan_to_num(expected), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(column(features, encoded, "b missing"), np.isnan(X[:, 1]))


def test_categories_agree_with_scikit_learn():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    rng = np.random.default_rng(1)
    X = np.stack([rng.choice(list("cab"), 80), rng.choice(["x", "ß", "1"], 80)], axis=1)
    features, encoded = fit_transform(pa.table({"u": X[:, 0], "v": X[:, 1]}))
    encoder = preprocessing.OneHotEncoder(sparse_output=False).fit(X)
    np.testing.assert_array_equal(encoded, encoder.transform(X))
    assert features.names == [
        name.replace("_", "=") for name in encoder.get_feature_names_out(["u", "v"])
    ]


def test_standardisation_keeps_its_digits_far_from_zero():
    x = np.arange(10.0)
    (numeric,) = fit_features(pa.table({"t": 1e15 + x})).numeric
    assert (numeric.center, numeric.scale) == (1e15 + 4.5, pytest.approx(x.std(), rel=1e-15))


@pytest.mark.parametrize("value", [0, 7, 0.1, -1e300 / 1e160, 1 / 3])
def test_constant_columns_are_dropped(value):
    table = pa.table({"c": [value] * 1000, "s": ["one"] * 1000, "x": [1, 2] * 500})
    features = fit_features(table)
    assert features.dropped == {"c": "constant", "s": "constant"}
    assert features.names == ["x"]


def test_a_number_of_one_value_or_none_keeps_its_indicator():
    features, encoded = fit_transform(pa.table({"x": [5.0, None, 5.0], "b": [None, True, True]}))
    assert features.names == ["x", "x missing", "b=True", "b=(missing)"]
    np.testing.assert_array_equal(encoded, [[0, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 0]])
    assert features.transform(pa.table({"x": [10.0], "b": [True]}))[0, 0] == 1


def test_missing_may_be_null_or_nan():
    features, encoded = fit_transform(pa.table({"x": [1.0, None, float("nan"), 3.0]}))
    np.testing.assert_array_equal(encoded, [[-1, 0], [0, 1], [0, 1], [1, 0]])
    assert features.names == ["x", "x missing"]


def test_empty_columns_are_dropped():
    nan = pa.array([float("nan")] * 2)
    table = pa.table({"n": pa.nulls(2), "f": nan, "s": pa.nulls(2, pa.string()), "x": [1, 2]})
    assert fit_features(table).dropped == dict.fromkeys("nfs", "no values")


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(),
        pa.uint8(),
        pa.int64(),
        pa.uint64(),
        pa.float16(),
        pa.float32(),
        pa.decimal128(9, 2),
    ],
)
def test_every_type_of_number(kind):
    values = [decimal.Decimal(v) for v in (1, 2, 3)] if pa.types.is_decimal(kind) else [1, 2, 3]
    if kind == pa.float16():
        values = np.array(values, np.float16)
    (numeric,) = fit_features(pa.table({"x": pa.array(values, kind)})).numeric
    assert (numeric.center, numeric.scale) == (2.0, pytest.approx(math.sqrt(2 / 3)))


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
)
def test_every_type_of_text(kind):
    values = pa.array(["b", None, "a", "b"]).cast(kind)
    features, encoded = fit_transform(pa.table({"s": pa.chunked_array([values[:2], values[2:]])}))
    assert features.names == ["s=a", "s=b", "s=(missing)"]
    np.testing.assert_array_equal(encoded @ [1, 2, 3], [2, 3, 1, 2])


def test_dictionary_of_numbers_is_a_category():
    values = pa.array([30, 10, None, 10], pa.int64()).dictionary_encode()
    features, encoded = fit_transform(pa.table({"code": values}))
    assert features.names == ["code=10", "code=30", "code=(missing)"]
    np.testing.assert_array_equal(encoded @ [1, 2, 3], [2, 1, 3, 1])


def test_data_frames_of_two_libraries_encode_alike():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    data = {"n": [1.5, 2.5, 4.0], "s": ["x", "y", "x"], "b": [True, False, True]}
    frame = pandas.DataFrame(data).astype({"s": "category"})
    other = polars.DataFrame(data).with_columns(polars.col("s").cast(polars.Categorical))
    features, encoded = fit_transform(frame)
    np.testing.assert_array_equal(encoded, features.transform(other, "float64"))
    assert fit_features(other) == features


def test_rare_categories_share_one_column():
    rng = np.random.default_rng(2)
    common, rare = [f"c{i:03}" for i in range(100)] * 5, [f"r{i}" for i in range(50)]
    values = rng.permutation(np.array(common + rare))
    with pytest.warns(TableWarning, match="150 different texts in 550 rows.*--drop 's'"):
        features, encoded = fit_transform(pa.table({"s": values}))
    assert features.names == [f"s={level}" for level in sorted(set(common))] + ["s=(other)"]
    np.testing.assert_array_equal(encoded[:, -1], np.char.startswith(values, "r"))
    np.testing.assert_array_equal(encoded.sum(axis=1), 1)
    new = features.transform(pa.table({"s": ["never seen"]}))  # belongs to (other), no warning
    assert new[0, -1] == 1
    assert new.sum() == 1


def test_indicators_are_the_columns_that_say_what_is_missing():
    table = pa.table(
        {
            "x": [None, *range(69)],
            "day": [None, *(datetime.date(2024, 1 + i % 12, 1 + i % 28) for i in range(69))],
            "flag": [None, *(i % 3 > 0 for i in range(69))],
            "kind": [None, None, *(["a", "b"] * 34)],
            "full": [i % 7 for i in range(70)],
        }
    )
    features = fit_features(table)
    X = features.transform(table)
    counted = {name: X[:, place].sum() for name, place in features.indicators.items()}
    assert counted == {"x": 1, "day": 1, "flag": 1, "kind": 2}
    rare = Categorical("rare", "string", ("a", "b"), missing=True, other=True)
    features = Features(("x", "rare"), (Numeric("x", 0.0, 1.0),), (rare,))
    assert features.names[features.indicators["rare"]] == "rare=(missing)"


def test_identifiers_are_dropped_with_a_warning():
    names = [f"Jane {i}" for i in range(95)] + ["John"] * 5
    table = pa.table({"name": names, "x": [1, 2] * 50})
    with pytest.warns(TableWarning, match="'name' is dropped: 96 different texts in 100 rows"):
        features = fit_features(table)
    assert features.names == ["x"]
    assert "identifier" in features.dropped["name"]
    assert fit_features(table.slice(0, 20)).categorical[0].name == "name"  # too few to say


@pytest.mark.parametrize("name", ["id", "ID", "Unnamed: 0", "", "index", "row_id"])
def test_row_numbers_are_dropped_with_a_warning(name):
    table = pa.table({name: [3, 1, 2], "x": [1.0, 2.0, 4.0]})
    with pytest.warns(TableWarning, match=f"{name!r} is dropped: 3 different whole numbers in"):
        assert fit_features(table).names == ["x"]


def test_what_only_resembles_a_row_number_stays():
    table = pa.table({"age": [1, 2, 3], "id": [1, 1, 2], "index": [1.5, 2.0, 3.0]})
    assert fit_features(table).names == ["age", "id", "index"]


def test_excluded_columns():
    table = pa.table({"a": [1, 2], "when": [datetime.date(2020, 1, 1)] * 2, "b": [1, 3]})
    features = fit_features(table, exclude=["when", "b"])
    assert features.names == ["a"]
    assert features.dropped == {"when": "excluded", "b": "excluded"}
    with pytest.raises(ValueError, match="no column named whne to drop; did you mean 'when'"):
        fit_features(table, exclude=["whne"])


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ([[1, 2]], r"\(list<.*>\): give each of its values a separate column"),
        ([{"a": 1}], r"\(struct<.*>\): give each of its values a separate column"),
        ([b"x"], r"\(binary\): decode it to text or numbers"),
    ],
)
def test_types_that_are_refused(values, advice):
    table = pa.table({"bad": values, "x": [1], "worse": [b"y"]})
    with pytest.raises(ValueError, match="'bad' " + advice) as error:
        fit_features(table)
    assert "'worse' (binary)" in str(error.value)
    assert str(error.value).endswith("drop with --drop bad worse")
    with pytest.raises(ValueError, match="no usable feature"):  # x is constant
        fit_features(table, exclude=["bad", "worse"])


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e200])
def test_infinities_are_refused(value):
    table = pa.table({"ok": [1.0, 2.0, 3.0], "x": [1.0, value, value]})
    message = r"column 'x' has values that are infinite .* in 2 of its rows, .* row 1 \(from 0\)"
    with pytest.raises(ValueError, match=message):
        fit_features(table)
    features = fit_features(pa.table({"ok": [1.0, 2.0, 3.0], "x": [1.0, 2.0, 4.0]}))
    with pytest.raises(ValueError, match=message):
        features.transform(table)


def test_no_usable_feature_says_why():
    table = pa.table({"a": [1, 1], "b": pa.nulls(2), "c": [1, 2]})
    with pytest.raises(
        ValueError, match="no usable feature; a: constant, b: no values, c: excluded; add"
    ):
        fit_features(table, exclude=["c"])


# ---------------------------------------------------------------------------- another table

TRAIN = pa.table({"age": [20, 30, 40], "job": ["a", "b", "b"], "ok": [True, False, True]})
FIT = fit_features(TRAIN)


def test_order_of_columns_is_free():
    np.testing.assert_array_equal(FIT.transform(TRAIN.select([2, 0, 1])), FIT.transform(TRAIN))


def test_statistics_are_those_of_the_fit():
    one = pa.table({"age": [40], "job": ["a"], "ok": [False]})
    np.testing.assert_allclose(FIT.transform(one), [[math.sqrt(1.5), 1, 0, 0]])


def test_missing_columns_are_all_listed():
    table = pa.table({"Job": ["a"], "ok": [True]})
    with pytest.raises(
        ValueError, match="lacks 2 of the 3 columns that the model uses: age, job; it has: Job, ok"
    ):
        FIT.transform(table)
    with pytest.raises(ValueError, match="did you mean 'Job'"):
        FIT.transform(table.append_column("age", [[1]]))


def test_dropped_columns_need_not_be_there():
    features = fit_features(pa.table({"c": [1, 1], "x": [1, 3]}))
    np.testing.assert_array_equal(features.transform(pa.table({"x": [3]})), [[1]])
    np.testing.assert_array_equal(features.transform(pa.table({"x": [3], "c": [9]})), [[1]])


def test_extra_columns_are_named():
    with pytest.warns(TableWarning, match="columns that the fit did not see, ignored: p, q$"):
        FIT.transform(TRAIN.append_column("p", [[1, 2, 3]]).append_column("q", [[1, 2, 3]]))


def test_unseen_categories_are_counted():
    table = pa.table({"age": [30, 30, 30], "job": ["z", "b", "y"], "ok": [False] * 3})
    with pytest.warns(TableWarning, match=r"fit did not see, encoded as zeros: job \(2 rows\)$"):
        encoded = FIT.transform(table)
    np.testing.assert_array_equal(encoded, [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])


def test_new_missing_values_are_counted():
    table = pa.table({"age": [None, None], "job": [None, "a"], "ok": [True, None]})
    with pytest.warns(
        TableWarning, match=r"missing values .* zeros: age \(2 rows\), job \(1 row\), ok \(1 row\)$"
    ):
        encoded = FIT.transform(table)
    np.testing.assert_array_equal(encoded, [[0, 0, 0, 1], [0, 1, 0, 0]])


@pytest.mark.parametrize(
    ("name", "fitted", "now"),
    [
        ("numbers as text", [1.0, 2.5, 4.0], ["2.5", " 1", "4.0"]),
        ("numbers as booleans", [0, 1, 1, 0], [True, False, True]),
        ("integers as floats", [1, 2, 3], [1.0, 2.0, 3.0]),
        ("text as integers", ["1", "2", "x"], [1, 2, 1]),
        ("text as floats", ["1", "2", "x"], [1.0, 2.0, 2.0]),
        ("text with fractions", ["1.5", "2", "x"], [1.5, 1.5]),
        ("text as booleans", ["true", "false", "maybe"], [True, False]),
        ("booleans as text", [True, False], ["true", "false"]),
        ("booleans as numbers", [True, False], [0, 1, 1]),
        ("text as categories", ["a", "b"], pa.array(["b", "a"]).dictionary_encode()),
        ("coded numbers", pa.array([1, 2]).dictionary_encode(), [2, 1]),
        ("coded numbers as text", pa.array([1, 2]).dictionary_encode(), ["2", "1"]),
    ],
)
def test_types_that_changed_without_loss(name, fitted, now):
    """The same values of the fit's own type encode alike, without a warning."""
    features = fit_features(pa.table({"x": fitted}))
    kind = pa.array(fitted).type if isinstance(fitted, list) else fitted.type.value_type
    values = [v.strip() if isinstance(v, str) else v for v in pa.array(now).to_pylist()]
    if pa.types.is_string(kind):
        text = [f"{v:g}" if type(v) in (int, float) else str(v) for v in values]
        same = pa.array(
            [v.lower() if type(w) is bool else v for v, w in zip(text, values, strict=True)]
        )
    elif pa.types.is_boolean(kind):
        same = pa.array([v in ("true", 1) for v in values])
    else:
        same = pa.array([float(v) for v in values])
    expected = features.transform(pa.table({"x": same}))
    assert expected.any()
    np.testing.assert_array_equal(features.transform(pa.table({"x": now})), expected)


@pytest.mark.parametrize(
    ("fitted", "now", "message"),
    [
        ([1, 2, 3], ["one", "two"], "'x' held numbers .* now it holds text, for example 'one'"),
        (
            [1, 2, 3],
            [datetime.date(2020, 1, 2)],
            "held numbers .* now it holds dates, for example '2020-01-02",
        ),
        ([1, 2, 3], [[1]], r"held numbers .* now it holds list<.*>, for example"),
        (["a", "b"], [1, 2], "held text .* now it holds numbers, for example '1'"),
        (["a", "b"], [True], "held text .* now it holds true or false, for example 'True'"),
        ([True, False], [0, 2], "held true or false .* now it holds numbers, for example '2"),
        ([True, False], ["yes", "no"], "held true or false .* holds text, for example 'yes'"),
    ],
)
def test_types_that_changed(fitted, now, message):
    features = fit_features(pa.table({"x": fitted}))
    with pytest.raises(ValueError, match=message):
        features.transform(pa.table({"x": now}))


def test_dates_with_a_type_and_dates_as_text_are_the_same():
    days = [datetime.date(2024, 1, day) for day in range(1, 29)]
    text = pa.table({"d": [str(day) for day in days]})
    for typed in (days, [datetime.datetime.combine(day, datetime.time()) for day in days]):
        features, encoded = fit_transform(pa.table({"d": typed}))
        np.testing.assert_array_equal(features.transform(text, "float64"), encoded)
        np.testing.assert_array_equal(
            fit_features(text).transform(pa.table({"d": typed}), "float64"), encoded
        )


def test_a_column_without_values_is_all_missing():
    table = pa.table({"age": pa.nulls(1), "job": pa.nulls(1), "ok": pa.nulls(1)})
    with pytest.warns(TableWarning, match=r"age \(1 row\), job \(1 row\), ok \(1 row\)"):
        assert not FIT.transform(table).any()


# ---------------------------------------------------------------------------- matrices


def test_matrix_agrees_with_scikit_learn():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    X = np.random.default_rng(3).normal(3, 5, (60, 5)).astype(np.float32)
    X[:, 2] = 0.1
    features, encoded = fit_transform(X)
    expected = preprocessing.StandardScaler().fit_transform(np.delete(X, 2, 1).astype(float))
    np.testing.assert_allclose(encoded, expected, rtol=1e-12, atol=1e-12)
    assert features.names == ["x0", "x1", "x3", "x4"]
    assert features.dropped == {"x2": "constant"}


def test_layout_and_blocks_change_nothing(monkeypatch):
    X = np.random.default_rng(4).normal(size=(11, 7))
    features, encoded = fit_transform(X)
    for same in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], X[::-1][::-1]):
        assert fit_features(same) == features
        np.testing.assert_array_equal(features.transform(same, "float64"), encoded)
    monkeypatch.setattr("nnaccel.tabular.scaling.BLOCK", 25)  # two columns at a time
    assert fit_features(X) == features
    np.testing.assert_array_equal(features.transform(X, "float64"), encoded)
    table = pa.table(list(X.T), names=features.names)
    np.testing.assert_array_equal(features.transform(table, "float64"), encoded)


def test_pixels_are_divided_by_the_brightest():
    X = np.array([[0, 7, 255], [0, 51, 128]], np.uint8)
    features, encoded = fit_transform(X)
    np.testing.assert_array_equal(encoded, X / 255)
    np.testing.assert_array_equal(features.transform(X), (X / 255).astype(np.float32))
    np.testing.assert_array_equal(features.transform(X // 2), (X // 2) / np.float32(255))
    assert features.names == ["x0", "x1", "x2"]


def test_input_is_left_as_it_was():
    X = np.random.default_rng(5).normal(size=(9, 3))
    before = X.copy()
    X.flags.writeable = False
    fit_transform(X)
    np.testing.assert_array_equal(X, before)


def test_names_of_a_matrix():
    features = fit_features(np.eye(3), names=["a", "b", "c"], exclude=["b"])
    assert features.names == ["a", "c"]
    np.testing.assert_array_equal(
        features.transform(pa.table({"c": [1.0], "a": [0.0]})), features.transform(np.eye(3)[2:])
    )
    for names in (["a"], ["a", "b", "b"]):
        with pytest.raises(
            ValueError, match="names must be 3 different names, one for each column"
        ):
            fit_features(np.eye(3), names=names)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_matrix_that_is_not_finite(value):
    X = np.eye(4)
    X[2, 1] = X[3, 0] = value
    message = rf"X must be finite, got {value} in row 2 \(from 0\), column 'x1'; fill or remove"
    with pytest.raises(ValueError, match=message):
        fit_features(X)
    with pytest.raises(ValueError, match=message):
        fit_features(np.eye(4)).transform(X)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (
            np.zeros(3),
            r"X must be 2-D \(n_samples, n_features\), got shape \(3,\); .* X\[None, :\]",
        ),
        (np.array([["a"]]), "X must hold numbers, got dtype <U1; convert it with X.astype"),
        (np.array([[None]]), "X must hold numbers, got dtype object; convert it"),
        (np.array([[1j]]), "X must hold numbers, got dtype complex128"),
        (np.zeros((0, 3)), r"X must have rows, got shape \(0, 3\)"),
        (np.ones((3, 2)), "no usable feature; x0: constant, x1: constant"),
    ],
)
def test_matrices_that_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        fit_features(X)


def test_matrix_for_another_model():
    with pytest.raises(ValueError, match="X has 4 columns, the model was fitted on 3: x0, x1, x2"):
        fit_features(np.eye(3)).transform(np.eye(4))
    with pytest.raises(
        ValueError, match=r"fitted on a table with categories or dates \(job, ok\), got a ma"
    ):
        FIT.transform(np.eye(3))


# ---------------------------------------------------------------------------- plain data

NUMBERS = st.floats(-1e100, 1e100, allow_subnormal=False) | st.none()
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.none()


@pytest.mark.filterwarnings("ignore::nnaccel.tabular.tables.TableWarning")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NUMBERS, WORDS, st.booleans() | st.none()), min_size=2, max_size=20))
def test_round_trip_through_json(rows):
    """What comes back encodes every table to the same bits."""
    kinds = {"number": pa.float64(), "word": pa.string(), "flag": pa.bool_()}
    columns = zip(kinds.items(), zip(*rows, strict=True), strict=True)
    table = pa.table({name: pa.array(values, kind) for (name, kind), values in columns})
    table = table.append_column("always", [[float(i) for i in range(len(rows))]])
    features = fit_features(table)
    again = Features.from_dict(json.loads(json.dumps(features.to_dict())))
    assert again == features
    assert again.names == features.names
    encoded = features.transform(table)
    assert np.isfinite(encoded).all()
    np.testing.assert_array_equal(again.transform(table), encoded)
    hot = encoded[:, len(features.numeric) + sum(c.missing for c in features.numeric) :]
    assert set(np.unique(hot)) <= {0, 1}


GOOD = {
    "columns": ["a", "s", "z"],
    "numeric": [
        {"name": "a", "center": 1.0, "scale": 2.0, "bend": False, "missing": False, "part": ""}
    ],
    "categorical": [
        {"name": "s", "kind": "string", "levels": ["u", "v"], "missing": True, "other": False}
    ],
    "dropped": {"z": "constant"},
    "readings": {"a": {"kind": "number", "form": ",", "codes": [-9.0]}},
}


def test_the_schema_as_written():
    features = Features.from_dict(GOOD)
    assert features.names == ["a", "s=u", "s=v", "s=(missing)"]
    assert json.loads(json.dumps(features.to_dict())) == GOOD
    assert Features.from_dict(features.to_dict()) == features


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), [], "features must be an object, got list"),
        (("columns",), None, "features has no key 'columns'"),
        (("more",), 1, "features has an unknown key 'more'; known: columns, numeric"),
        (("columns",), "asz", "'columns' must be a list of different strings, got 'asz'"),
        (("columns",), ["a", "a", "s"], "'columns' must be a list of different strings"),
        (("columns",), ["a", "s"], "'columns' must be the names in 'numeric', 'categorical' and"),
        (("columns",), ["a", "s", "z", "y"], "'columns' must be the names in 'numeric'"),
        (("numeric",), {}, "'numeric' must be a list of objects"),
        (("numeric", 0, "center"), None, "'numeric' has no key 'center'"),
        (("numeric", 0, "center"), "1", "'numeric': 'center' must be a finite number, got '1'"),
        (("numeric", 0, "center"), True, "'center' must be a finite number, got True"),
        (("numeric", 0, "center"), math.nan, "'center' must be a finite number, got nan"),
        (("numeric", 0, "center"), math.inf, "'center' must be a finite number, got inf"),
        (("numeric", 0, "center"), 10**400, "'center' must be a finite number, got 1000"),
        (("numeric", 0, "scale"), 0.0, "'scale' must be a positive finite number, got 0.0"),
        (("numeric", 0, "missing"), 0, "'missing' must be a flag, got 0"),
        (("numeric", 0, "smooth"), 1, "'numeric' has an unknown key 'smooth'"),
        (("numeric", 0, "name"), "s", "'columns' must be the names"),
        (
            ("categorical", 0, "kind"),
            "os.system",
            "'kind' must be 'string' or 'boolean' or 'number'",
        ),
        (("categorical", 0, "kind"), ["string"], "'kind' must be 'string' or 'boolean'"),
        (("categorical", 0, "levels"), "uv", "'levels' must be a list, got 'uv'"),
        (
            ("categorical", 0, "levels"),
            ["v", "u"],
            "'levels' must be a list of strings in ascending",
        ),
        (
            ("categorical", 0, "levels"),
            ["u", "u"],
            "'levels' must be a list of strings in ascending",
        ),
        (("categorical", 0, "levels"), [], "'levels' must be a list of strings in ascending"),
        (("categorical", 0, "levels"), ["u", 1], "'levels' must be a list of strings in ascending"),
        (("categorical", 0, "levels"), ["u", ["v"]], "'levels' must be a list of strings"),
        (("readings", "a", "codes"), 1, "'codes' must be a list of finite numbers, got 1"),
        (("readings", "a", "kind"), "word", "'kind' must be 'number' or 'date'"),
        (("readings", "a", "form"), "ymd", "'form' must be '.' or ','"),
        (("readings", "b"), {}, "'readings' has 'b', which is no column in use"),
        (
            ("readings", "s"),
            {"kind": "time", "form": "", "codes": []},
            "categories of 's' are string, and read as time",
        ),
        (("numeric", 0, "part"), "days", "'a' is a number without 'days'"),
        (("dropped",), {"z": 1}, "'dropped' must be an object of strings"),
        (("dropped",), [], "'dropped' must be an object of strings"),
    ],
)
def test_the_schema_is_closed(path, value, message):
    data = json.loads(json.dumps(GOOD))
    if not path:
        data = value
    else:
        place = data
        for key in path[:-1]:
            place = place[key]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        Features.from_dict(data)


def test_a_column_with_outliers_is_measured_by_its_quartiles_and_bounded():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1000) * 2 + 5
    x[:5] = [1e3, -1e3, 500, 400, 300]
    features = fit_features(x[:, None])
    (numeric,) = features.numeric
    assert numeric.bend
    q1, median, q3 = np.quantile(x, [0.25, 0.5, 0.75])
    assert numeric.center == pytest.approx(median)
    assert numeric.scale == pytest.approx((q3 - q1) / 1.349)
    z = (x - median) / numeric.scale
    encoded = features.transform(x[:, None], "float64")[:, 0]
    far = np.abs(z) > 20
    assert np.count_nonzero(far) == 5
    np.testing.assert_allclose(encoded[~far], z[~far], rtol=1e-9)
    np.testing.assert_allclose(
        encoded[far], np.sign(z[far]) * 20 * (1 + np.log(np.abs(z[far]) / 20))
    )
    assert (encoded[np.argsort(x)] == np.sort(encoded)).all()
    assert np.abs(encoded).max() < 90


def test_a_column_whose_quartiles_coincide_is_standardised_even_with_outliers():
    x = np.zeros(1000)
    x[:3] = [1.0, 2.0, 100.0]
    (numeric,) = fit_features(x[:, None]).numeric
    assert (numeric.bend, numeric.center) == (False, pytest.approx(x.mean()))


def test_outliers_are_found_among_missing_values():
    x = np.array([float(i % 10) for i in range(400)])
    x[0], x[1] = 1e4, np.nan
    table = pa.table({"a": pa.array(x, from_pandas=True)})
    (numeric,) = fit_features(table).numeric
    assert numeric.bend
    assert numeric.center == pytest.approx(np.nanmedian(x))
    encoded = fit_features(table).transform(table, "float64")
    assert encoded[1].tolist() == [0.0, 1.0]
