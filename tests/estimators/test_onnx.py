"""The estimators as ONNX graphs, run by onnxruntime, against their own predictions."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the graphs are of the package onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="the oracle is onnxruntime")

from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nnaccel import MLPClassifier, MLPRegressor, TableClassifier, TableRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
QUICK = {"max_iter": 5, "random_state": 0}


def run(graph, inputs):
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "labels",
    [
        y,
        y > 0,
        y > 3,  # one class
        np.array(["a", "b", "c"])[y],
        np.array(["a", "b"], dtype=object)[y % 2],
    ],
    ids=["three numbers", "two truths", "one", "three words", "two objects"],
)
def test_classifiers(labels, dtype):
    data = X.astype(dtype)
    clf = MLPClassifier((6, 5), ["gelu", "selu"], dropout=0.1, **QUICK).fit(data, labels)
    found = run(clf.to_onnx(), {"X": data})
    expected = clf.predict_proba(data)
    assert [*found] == ["y", "y probabilities"]
    np.testing.assert_allclose(found["y probabilities"], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found["y"], clf.predict(data))


def test_several_labels():
    data, labels = make_multilabel_classification(n_classes=3, random_state=0)
    clf = MLPClassifier((6,), **QUICK).fit(data, labels)
    found = run(clf.to_onnx(), {"X": data})
    np.testing.assert_allclose(found["y probabilities"], clf.predict_proba(data), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found["y"], clf.predict(data))
    assert found["y"].dtype == np.int64


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("n", [1, 3])
def test_regressors(loss, n):
    numbers = X[:, 0] if n == 1 else X[:, :n]
    reg = MLPRegressor(hidden_layer_sizes=6, activation="tanh", loss=loss, **QUICK).fit(X, numbers)
    found = run(reg.to_onnx(), {"X": X})
    np.testing.assert_allclose(found["y"], reg.predict(X), rtol=1e-5)
    assert found["y"].shape == numbers.shape


@pytest.mark.parametrize("n", [1, 2])
def test_quantiles_and_deviations(n):
    numbers = X[:, 0] if n == 1 else X[:, :n]
    quantiles = MLPRegressor("pinball", quantile=(0.1, 0.5, 0.9), **QUICK).fit(X, numbers)
    found = run(quantiles.to_onnx(), {"X": X})
    np.testing.assert_allclose(found["y"], quantiles.predict(X), rtol=1e-5)
    gaussian = MLPRegressor("gaussian", **QUICK).fit(X, numbers)
    found = run(gaussian.to_onnx(), {"X": X})
    mean, std = gaussian.predict(X, return_std=True)
    assert [*found] == ["y", "y_std"]
    np.testing.assert_allclose(found["y"], mean, rtol=1e-5)
    np.testing.assert_allclose(found["y_std"], std, rtol=1e-5)


def test_tables():
    columns = {"x": [*X[:, 0].tolist()], "kind": [["a", "b", None][i % 3] for i in range(len(X))]}
    inputs = {"x": X[:, 0], "kind": np.array([k or "" for k in columns["kind"]], dtype=object)}
    clf = TableClassifier(epochs=2, random_state=0).fit(columns, np.array(["a", "b", "c"])[y])
    found = run(clf.to_onnx(), inputs)
    np.testing.assert_allclose(
        found["y probabilities"], clf.predict_proba(columns), rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(found["y"], clf.predict(columns))
    reg = TableRegressor(epochs=2, random_state=0).fit(columns, X[:, 1:3])
    found = run(reg.to_onnx(), inputs)
    both = np.stack([found["y0"], found["y1"]], axis=1)
    np.testing.assert_allclose(both, reg.predict(columns), rtol=1e-5)


def test_an_unfitted_one_is_refused():
    for estimator in (MLPClassifier(), MLPRegressor(), TableClassifier(), TableRegressor()):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            estimator.to_onnx()


def test_classes_that_onnx_has_not():
    days = np.array(["2024-01-01", "2024-01-02"], dtype="M8[D]")[y % 2]
    clf = MLPClassifier((4,), **QUICK).fit(X, days)
    with pytest.raises(ValueError, match=r"classes of datetime64\[D\] cannot be in ONNX, which"):
        clf.to_onnx()


def test_the_converter_of_skl2onnx_reads_them():
    """skl2onnx knows scikit-learn's networks; the same converter does for ours, in a pipeline."""
    skl2onnx = pytest.importorskip("skl2onnx", reason="it is skl2onnx's converter")
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes
    from skl2onnx.operator_converters import multilayer_perceptron as converters
    from skl2onnx.shape_calculators import linear_classifier

    skl2onnx.update_registered_converter(
        MLPClassifier,
        "NnaccelMLPClassifier",
        linear_classifier.calculate_linear_classifier_output_shapes,
        converters.convert_sklearn_mlp_classifier,
        options={"zipmap": [False], "nocl": [False], "output_class_labels": [False]},
    )
    skl2onnx.update_registered_converter(
        MLPRegressor,
        "NnaccelMLPRegressor",
        calculate_linear_regressor_output_shapes,
        converters.convert_sklearn_mlp_regressor,
    )
    kind = [("X", DoubleTensorType([None, 4]))]
    for labels in (y, y > 0, np.array(["a", "b", "c"])[y]):
        pipeline = make_pipeline(StandardScaler(), MLPClassifier((6,), "tanh", **QUICK))
        pipeline.fit(X, labels)
        options = {MLPClassifier: {"zipmap": False}}
        graph = skl2onnx.convert_sklearn(pipeline, initial_types=kind, options=options)
        label, P = run(graph, {"X": X}).values()
        np.testing.assert_allclose(P, pipeline.predict_proba(X), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(label, pipeline.predict(X))
    reg = MLPRegressor(hidden_layer_sizes=6, **QUICK).fit(X, X[:, 0])
    [found] = run(skl2onnx.convert_sklearn(reg, initial_types=kind), {"X": X}).values()
    np.testing.assert_allclose(found[:, 0], reg.predict(X), rtol=1e-5)
