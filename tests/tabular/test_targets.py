"""Targets: classes or numbers, and every reason to refuse one. Oracles: NumPy, scikit-learn."""

import json
import math
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnaccel.tabular.targets import Target, fit_target, rows_with_target


def arrow(values, kind=None):
    pa = pytest.importorskip("pyarrow")
    return pa.chunked_array([pa.array(values, getattr(pa, kind)() if kind else None)])


def decoded(target, values):
    """Through the encoding and back."""
    return target.decode(target.encode(values)).tolist()


# ---------------------------------------------------------------------------- what is a class

LABELS = [
    (["b", "a", "b", "a"], ("a", "b")),
    ([True, False, False, True], (False, True)),
    ([3, 1, 3, 1], (1, 3)),
    ([2.0, 0.0, 0.0, 2.0], (0.0, 2.0)),
    ([-1, 1, -1, 1, 0, 0] * 5, (-1, 0, 1)),
]


@pytest.mark.parametrize(("values", "classes"), LABELS)
@pytest.mark.parametrize("make", [np.array, arrow, list, lambda v: np.array(v)[:, None]])
def test_classes_keep_their_type(make, values, classes):
    target = fit_target(make(values), name="y")
    assert target == Target("classification", "y", classes)
    assert list(map(type, target.classes)) == list(map(type, classes))
    encoded = target.encode(make(values))
    assert encoded.dtype == np.int64
    assert encoded.tolist() == [classes.index(value) for value in values]
    assert decoded(target, make(values)) == values


def test_classes_agree_with_scikit_learn():
    encoder = pytest.importorskip("sklearn.preprocessing").LabelEncoder()
    values = np.random.default_rng(0).choice(["setosa", "virginica", "Ångström", "10", "9"], 60)
    expected = encoder.fit_transform(values)
    for y in (values, values.astype(object), arrow(values)):
        target = fit_target(y)
        assert list(target.classes) == encoder.classes_.tolist()
        np.testing.assert_array_equal(target.encode(y), expected)


@pytest.mark.parametrize("make", [np.array, arrow])
@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([0.5, 1.0, 1.0, 0.5], "regression"),  # fractions
        (list(range(20)) * 5, "classification"),  # 20 different ones, 5 rows each
        (list(range(20)) * 4, "regression"),
        (list(range(21)) * 9, "regression"),
        ([0.0, 1.0] * 2, "classification"),  # two are always labels
        ([7, 8, 9], "regression"),
        ([0, 10**12] * 2, "classification"),
    ],
)
def test_task_of_numbers(make, values, task):
    assert fit_target(make(values)).task == task


def test_task_may_be_asked_for():
    values = np.array([0, 0, 1, 1])
    assert fit_target(values, "regression") == Target("regression", "y", (), 0.5, 0.5)
    many = np.repeat(np.arange(30), 2)
    assert fit_target(many, "classification").classes == tuple(range(30))


def test_coded_numbers_are_classes():
    pa = pytest.importorskip("pyarrow")
    many = pa.array(np.repeat(np.arange(30), 2))
    assert fit_target(many).task == "regression"
    assert fit_target(many.dictionary_encode()).classes == tuple(range(30))


def test_columns_of_data_frames():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    values = ["no", "yes", "no", "yes"]
    for series in (
        pandas.Series(values, index=[4, 2, 9, 1]),
        pandas.Series(values, dtype="category"),
        polars.Series(values),
        polars.Series(values, dtype=polars.Categorical),
    ):
        target = fit_target(series)
        assert target.classes == ("no", "yes")
        assert target.encode(series).tolist() == [0, 1, 0, 1]


# ---------------------------------------------------------------------------- regression


@pytest.mark.parametrize("make", [np.array, arrow])
def test_regression_is_standardised(make):
    values = np.random.default_rng(1).normal(1e6, 30, 500)
    target = fit_target(make(values), name="price")
    assert target.task == "regression"
    assert target.mean == pytest.approx(values.mean(), rel=1e-14)
    assert target.scale == pytest.approx(values.std(), rel=1e-10)
    encoded = target.encode(make(values))
    assert encoded.dtype == np.float64
    np.testing.assert_allclose(encoded, (values - values.mean()) / values.std(), atol=1e-8)
    np.testing.assert_allclose(target.decode(encoded), values, rtol=1e-15)
    assert target.decode(np.float32([[0], [1]])).dtype == np.float64


def test_repeated_values_have_their_weight():
    target = fit_target(np.array([1.5, 1.5, 1.5, 5.5]))
    assert (target.mean, target.scale) == (2.5, math.sqrt(3))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=30))
def test_own_units_come_back(values):
    values = np.array([*values, 1.5, 2e6])
    target = fit_target(values)
    np.testing.assert_allclose(target.decode(target.encode(values)), values, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------- what is refused

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        ([None, None], "auto", "target 'y' has no values at all; choose another target"),
        ([NAN, NAN], "regression", "target 'y' has no values at all"),
        ([], "auto", "target 'y' has no rows"),
        ([1.0, NAN, NAN], "auto", r"target 'y' is missing in 2 of 3 rows; .*rows_with_target"),
        (["a", None, "b"], "auto", r"target 'y' is missing in 1 of 3 rows"),
        (["a", "a"], "auto", "target 'y' has a single class, 'a'; there is nothing to tell apart"),
        ([5, 5, 5], "auto", "target 'y' has a single class, 5;"),
        (
            ["a", "a", "b", "c"],
            "auto",
            "target 'y' has 2 of 3 classes with a single row: 'b', 'c'; merge .* or drop its row$",
        ),
        ([0, 0, 1], "auto", "1 of 2 classes with a single row: 1; .*or use --task regression$"),
        ([1.0, INF, -INF], "auto", r"target 'y' is infinite or too large in 2 of 3 rows, .* row 1"),
        ([0.1, 1e200], "auto", r"target 'y' is infinite or too large in 1 of 2 rows"),
        ([0.1, 0.1], "auto", "target 'y' is constant .0.1.; there is nothing to predict"),
        ([3, 3, 3], "regression", "target 'y' is constant .3.;"),
        ([0.5, 1.0], "classification", "numbers with fractions, such as 0.5, .*--task regression"),
        (["a", "b"], "regression", "holds text .'a', 'b'., and regression needs numbers; .*--task"),
        ([True, False], "regression", "holds true or false .False, True., and regression needs"),
    ],
)
@pytest.mark.parametrize("make", [lambda v: np.array(v, None if v else float), arrow])
def test_targets_that_are_refused(make, values, task, message):
    with pytest.raises(ValueError, match=message) as error:
        fit_target(make(values), task)
    assert "\n" not in str(error.value)


def test_names_are_in_the_message():
    with pytest.raises(ValueError, match="target 'price' has a single class"):
        fit_target(np.zeros(4), name="price")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 2)), r"target 'y' must be 1-D \(n_samples,\), got shape \(3, 2\)"),
        (np.array(["2020-01-01"], "M8[D]"), r"must hold numbers, text or booleans, got datetime64"),
        (np.array([b"a"]), "must hold numbers, text or booleans, got |S1"),
        (np.array([1j]), "must hold numbers, text or booleans, got complex128"),
        (np.array(["a", 1, "b"], object), "mixes types: 'b', 1; make it one"),
        (np.array([True, 1.5], object), "mixes types: True, 1.5; make it one"),
        (np.array([{}, {}], object), "must hold numbers, text or booleans, got object"),
    ],
)
def test_arrays_that_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        fit_target(values)


@pytest.mark.parametrize("values", [[date(2020, 1, 1)], [[1]], [b"x"]])
def test_columns_that_are_refused(values):
    with pytest.raises(ValueError, match="target 'y' must hold numbers, text or booleans, got"):
        fit_target(arrow(values))


def test_unknown_task():
    with pytest.raises(ValueError, match="task must be one of auto, .*; did you mean 'regression'"):
        fit_target(np.arange(3), "regresion")


# ---------------------------------------------------------------------------- missing rows


@pytest.mark.parametrize("values", [["a", None, "b"], [1.5, NAN, 2.5], [1, None, 2]])
@pytest.mark.parametrize("make", [lambda v: np.array(v, object), arrow])
def test_rows_with_target(make, values):
    assert rows_with_target(make(values)).tolist() == [True, False, True]


def test_objects_with_gaps():
    values = np.array(["a", None, "b", "b", NAN, "a"], object)
    assert fit_target(values[rows_with_target(values)]).classes == ("a", "b")


def test_rows_of_other_arrays():
    assert rows_with_target(np.array([1.0, NAN])).tolist() == [True, False]
    assert rows_with_target(np.array([1, 2])).tolist() == [True, True]


# ---------------------------------------------------------------------------- other data


@pytest.mark.parametrize("make", [np.array, arrow])
def test_other_data(make):
    target = fit_target(np.array(["no", "yes"] * 2), name="ok")
    assert target.encode(make(["yes"])).tolist() == [1]
    with pytest.raises(
        ValueError, match="target 'ok' has classes .* not know: 'maybe', 'so'; it kn"
    ):
        target.encode(make(["so", "yes", "maybe"]))
    with pytest.raises(ValueError, match="target 'ok' is missing in 1 of 2 rows"):
        target.encode(np.array(["yes", None], object))
    number = fit_target(np.array([1.5, 2.5]), name="n")
    with pytest.raises(ValueError, match="target 'n' is infinite or too large in 1 of 1 rows"):
        number.encode(make([INF]))
    with pytest.raises(
        ValueError, match="target 'n' held numbers .* now it holds text .'x'.; conv"
    ):
        number.encode(make(["x"]))


@pytest.mark.parametrize(
    ("fitted", "now", "codes"),
    [
        ([0, 1, 0, 1], [1.0, 0.0], [1, 0]),
        ([0.0, 1.0] * 2, [1, 0], [1, 0]),
        ([0, 1, 0, 1], ["1", "0"], [1, 0]),
        ([0, 1, 0, 1], [True, False], [1, 0]),
        (["1", "2", "x"] * 2, [2, 1], [1, 0]),
        (["1", "2", "x"] * 2, [2.0, 1.0], [1, 0]),
        ([True, False] * 2, ["True", "false"], [1, 0]),
        ([True, False] * 2, [1, 0], [1, 0]),
        ([1.5, 2.5], ["2.5", "1.5"], [1, -1]),
    ],
)
@pytest.mark.parametrize("make", [np.array, arrow])
def test_types_that_changed_without_loss(make, fitted, now, codes):
    assert fit_target(make(fitted)).encode(make(now)).tolist() == codes


def test_decode_takes_any_shape():
    target = Target("classification", "y", ("a", "b", "c"))
    assert target.decode([[2, 0], [1, 1]]).tolist() == [["c", "a"], ["b", "b"]]


# ---------------------------------------------------------------------------- plain data


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(
        st.sets(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=2
        ),
        st.sets(st.integers(-(2**53), 2**53), min_size=2),
        st.just({True, False}),
    )
)
def test_classes_survive_json(labels):
    values = np.array([*labels] * 2)
    target = fit_target(values, "classification", "label")
    again = Target.from_dict(json.loads(json.dumps(target.to_dict())))
    assert again == target
    assert [*map(type, again.classes)] == [*map(type, target.classes)]
    assert again.decode(again.encode(values)).tolist() == values.tolist()


def test_numbers_survive_json():
    target = fit_target(np.array([0.1, 0.7, 1e9 / 3]))
    assert Target.from_dict(json.loads(json.dumps(target.to_dict()))) == target
    assert Target.from_dict(target.to_dict()) == target


CLASSES = {"task": "classification", "name": "y", "classes": ["a", "b"], "mean": 0.0, "scale": 1.0}
NUMBER = {"task": "regression", "name": "y", "classes": [], "mean": 3.0, "scale": 2.0}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("y", "target must be an object, got str"),
        ({**NUMBER, "units": "m"}, "target has an unknown key 'units'; known: task, name, classes"),
        ({"task": "regression"}, "target has no key 'name'"),
        ({**NUMBER, "task": "auto"}, "'task' must be 'classification' or 'regression', got 'auto'"),
        ({**NUMBER, "name": 1}, "'name' must be a string, got 1"),
        ({**NUMBER, "classes": ["a", "b"]}, "'classes' must be empty for regression"),
        ({**NUMBER, "mean": NAN}, "'mean' must be a finite number, got nan"),
        ({**NUMBER, "scale": 0}, "'scale' must be a positive finite number, got 0"),
        ({**NUMBER, "scale": -1.0}, "'scale' must be a positive finite number"),
        ({**CLASSES, "classes": "ab"}, "'classes' must be a list, got 'ab'"),
        ({**CLASSES, "classes": []}, "'classes' must be a list of strings in ascending order"),
        ({**CLASSES, "classes": ["a"]}, "'classes' must be two or more"),
        ({**CLASSES, "classes": ["b", "a"]}, "'classes' must be a list of strings in ascending"),
        ({**CLASSES, "classes": ["a", 1]}, "'classes' must be a list of strings in ascending"),
        ({**CLASSES, "classes": [1, "a"]}, "'classes' must be a list of 64-bit integers in asc"),
        ({**CLASSES, "classes": [1, 2**63]}, "'classes' must be a list of 64-bit integers in as"),
        ({**CLASSES, "classes": [1.0, NAN]}, "'classes' must be a list of finite numbers in asc"),
        ({**CLASSES, "classes": [0.5, 2**60]}, "'classes' must be a list of finite numbers in a"),
        ({**CLASSES, "classes": ["a", "a\0"]}, "no class may end in a null character"),
        ({**CLASSES, "classes": ["a", "\ud800"]}, "'classes' must be a list of strings in asce"),
        ({**CLASSES, "classes": [[], {}]}, "'classes' must be a list of strings in ascending"),
    ],
)
def test_the_schema_is_closed(data, message):
    with pytest.raises(ValueError, match=message):
        Target.from_dict(data)
