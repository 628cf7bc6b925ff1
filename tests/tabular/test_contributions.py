"""Contributions of the columns to the prediction of a row: integrated gradients."""

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="tables need the extra [cli]")
import pyarrow as pa

import nnaccel as nn
from nnaccel.maths import losses
from nnaccel.maths.losses import Loss, squared_error
from nnaccel.tabular.contributions import contributions
from nnaccel.tabular.features import fit_features
from nnaccel.tabular.targets import Target
from tests.export.examples import fitted, outputs_of, table, target


@pytest.mark.parametrize("kind", ["numbers", "amounts", "two words", "three words"])
@pytest.mark.parametrize("numbers", ["plain", "both"])
def test_they_add_up_to_the_difference_from_the_average_row(kind, numbers):
    columns = table()
    options = {"loss": "poisson"} if kind == "amounts" else {}
    model = fitted(columns, target(columns, kind), members=2, numbers=numbers, **options)
    outputs = outputs_of(model, columns)
    for row in (0, 7, 299):
        [one] = contributions(model, columns, row)
        assert one.columns == tuple(columns)
        np.testing.assert_allclose(one.values.sum(), one.value - one.average, rtol=1e-3)
        if one.label is None:
            np.testing.assert_allclose([one.prediction, one.value], outputs[row], rtol=1e-5)
            continue
        best = outputs[row].argmax()
        assert one.label == model.target.classes[best]
        p = outputs[row, best]
        np.testing.assert_allclose(one.prediction, p, rtol=1e-5)
        np.testing.assert_allclose(one.value, np.log(p / (1 - p)), rtol=1e-4, atol=1e-5)


def test_of_a_linear_model_they_are_its_terms():
    columns = {"gaps": table()["gaps"], "text": table()["text"]}
    model = fitted(columns, target(columns, "numbers"), hidden=(), dtype="float64")
    X = model.features.transform(columns, "float64")
    terms = (X - X.mean(axis=0)) * model.params[:-1] * model.target.scale
    [one] = contributions(model, columns, 4)
    expected = [terms[4, places].sum() for places in model.features.places.values()]
    np.testing.assert_allclose(one.values, expected, rtol=1e-9)
    average = X.mean(axis=0) @ model.params[:-1] + model.params[-1]
    np.testing.assert_allclose(one.average, average * model.target.scale + model.target.mean)
    assert one.kinds == ("number", "string")
    assert one.cells == (columns["gaps"][4], columns["text"][4])
    [one] = contributions(model, columns, 1)
    assert one.cells == (None, None)


def test_several_targets_have_contributions_each():
    columns = table()
    words = target(columns, "two words")
    model = fitted(columns, pa.table({"a": words, "b": np.roll(words, 1)}), name="a, b")
    found = contributions(model, columns, 5)
    predicted = model.target.predicted(outputs_of(model, columns))
    for one, name in zip(found, "ab", strict=True):
        assert (one.target, one.label) == (name, predicted[name][5])
        np.testing.assert_allclose(one.values.sum(), one.value - one.average, rtol=1e-3)


def test_what_is_refused():
    columns = {"gaps": table()["gaps"]}
    model = fitted(columns, target(columns, "numbers"))
    for row in (-1, 300):
        with pytest.raises(ValueError, match=f"row must be from 0 to 299, got {row}"):
            contributions(model, columns, row)
    own = Loss("own", squared_error, lambda Z, *, xp: 2 * Z)
    with pytest.raises(ValueError, match="the loss 'own' has a link without a known derivative"):
        contributions(model._replace(loss=own), columns, 0)
    X = np.random.default_rng(0).standard_normal((9, 2))
    network = nn.Network(2, (nn.BatchNorm(), nn.Dense(1)))
    parts = (network, nn.initialize(network), losses.get("squared_error"), fit_features(X))
    model = nn.Model(*parts, Target("regression", "y"), [], {}, {})
    with pytest.raises(ValueError, match="contributions need the gradient of a prediction, which"):
        contributions(model, X, 0)
