"""`nnaccel export` and `explain` of the files that estimators save."""

import json
import runpy

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")

import pyarrow as pa
from pyarrow import csv
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.inspection import permutation_importance

from nnaccel import MLPClassifier, MLPRegressor

X, y = load_iris(return_X_y=True)
NAMES = ["long", "wide", "petal", "thin"]
QUICK = {
    "hidden_layer_sizes": (5, 4),
    "activation": "tanh",
    "max_iter": 30,
    "random_state": 0,
    "kernels": "numpy",  # nothing to compile
}
DATA, LABELS = make_multilabel_classification(120, 6, n_classes=3, random_state=0)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def frame():
    pandas = pytest.importorskip("pandas", reason="names of columns are those of data frames")
    return pandas.DataFrame(X, columns=NAMES)


FITS = {
    "three words": lambda: (MLPClassifier(**QUICK), X, np.array(["a", "b", "c"])[y]),
    "two truths": lambda: (MLPClassifier(**QUICK, dropout=0.1), X, y > 0),
    "two numbers": lambda: (MLPClassifier(**QUICK), X.astype("float32"), (y > 1) + 4),
    "labels": lambda: (MLPClassifier(**QUICK), DATA, LABELS),
    "a number": lambda: (MLPRegressor(**QUICK), frame(), X[:, 0]),
    "counts": lambda: (MLPRegressor(**QUICK, loss="poisson"), X, y.astype(float)),
    "numbers": lambda: (MLPRegressor(**QUICK), X, X[:, :2]),
}


@pytest.fixture(params=FITS, scope="module")
def saved(request, tmp_path_factory):
    """An estimator, its file, and the rows that it was fitted on."""
    estimator, rows, target = FITS[request.param]()
    estimator.fit(rows, target)
    path = tmp_path_factory.mktemp("saved") / "m"
    estimator.save(path)
    return estimator, path, rows


def test_a_file_of_numpy_predicts_alike(run, here, saved):
    estimator, path, rows = saved
    run("export", path, "m.py")
    assert run.err == f"m.py written: the network of the {type(estimator).__name__}, numpy\n"
    own = runpy.run_path("m.py")
    expected, found = estimator.predict(rows), own["predict"](rows)
    if isinstance(estimator, MLPRegressor):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert "predict_proba" not in own
        return
    np.testing.assert_array_equal(found, expected)
    P = own["predict_proba"](rows)
    np.testing.assert_allclose(P, estimator.predict_proba(rows), rtol=0, atol=1e-6)
    assert "encode" not in own


def test_a_file_of_numpy_says_the_names_of_the_columns(run, here, tmp_path):
    MLPRegressor(**QUICK).fit(frame(), y).save("m")
    run("export", "m", "m.py")
    own = runpy.run_path("m.py")
    assert own["COLUMNS"] == NAMES
    assert "numbers in 4 columns, in the order of COLUMNS." in own["__doc__"]


def test_an_onnx_graph_is_that_of_the_estimator(run, here, saved):
    onnx = pytest.importorskip("onnx", reason="ONNX needs the extra [onnx]")
    estimator, path, rows = saved
    run("export", path, "m.onnx")
    assert onnx.load("m.onnx") == estimator.to_onnx()
    runtime = pytest.importorskip("onnxruntime", reason="the oracle is onnxruntime")
    session = runtime.InferenceSession("m.onnx")
    given = np.asarray(rows).astype(estimator.coefs_[0].dtype)
    found = session.run(["y"], {"X": given})[0]
    expected = estimator.predict(rows)
    if isinstance(estimator, MLPRegressor):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    else:
        np.testing.assert_array_equal(found, expected)


def test_modules_of_pytorch_give_logits(run, here):
    torch = pytest.importorskip("torch", reason="the modules are PyTorch's")
    clf = MLPClassifier(**QUICK).fit(X, y)
    clf.save("m")
    run("export", "m", "m.pt")
    network = torch.load("m.pt", weights_only=False)
    P = network(torch.asarray(X)).softmax(-1).detach().numpy()
    np.testing.assert_allclose(P, clf.predict_proba(X), rtol=0, atol=1e-12)


def table(path, **columns):
    csv.write_csv(pa.table(columns), path)
    return str(path)


def test_importance_is_scikit_learns_of_the_estimator(run, here):
    labels = np.array(["a", "b", "c"])[y]
    clf = MLPClassifier(**QUICK).fit(X, labels)
    clf.save("m")
    columns = {name: X[:, i] for i, name in enumerate(NAMES)}
    source = table(here / "d.csv", **columns, kind=labels)
    run("explain", "m", source, "--target", "kind", "--json", "j", "--top", 1)
    found = json.loads((here / "j").read_text())
    expected = permutation_importance(clf, X, labels, n_repeats=5, random_state=0)
    means = {one["column"]: one["mean"] for one in found["importance"]}
    np.testing.assert_allclose([means[n] for n in NAMES], expected.importances_mean, atol=1e-12)
    assert found["baseline"] == clf.score(X, labels)
    assert [*found["partial dependence"][0]["means"]] == ["P(a)", "P(b)", "P(c)"]
    # The built-in table, whose target is known.
    run("explain", "m", "iris", "--row", 3, "--json", "j")
    [one] = json.loads((here / "j").read_text())["targets"]
    assert one["prediction"] == clf.predict(X[3:4])[0]
    assert one["probability"] == pytest.approx(clf.predict_proba(X[3:4]).max())


def test_columns_are_found_by_the_names_of_the_fit(run, here):
    reg = MLPRegressor(**QUICK).fit(frame(), X[:, 0] * 3)
    reg.save("m")
    columns = {name: X[:, i] for i, name in enumerate(NAMES)}
    source = table(here / "d.csv", other=y, **dict(reversed(columns.items())), goal=X[:, 0] * 3)
    run("explain", "m", source, "--target", "goal", "--json", "j")
    found = json.loads((here / "j").read_text())
    assert found["baseline"] == pytest.approx(reg.score(frame(), X[:, 0] * 3))
    assert {one["column"] for one in found["importance"]} == {*NAMES}
    assert "columns that the fit did not see, ignored: other" in run.err


def test_several_targets_are_named_each(run, here):
    MLPClassifier(**QUICK).fit(DATA, LABELS).save("m")
    columns = {f"c{i}": column for i, column in enumerate(DATA.T)}
    columns |= {name: LABELS[:, k] for k, name in enumerate("pqr")}
    source = table(here / "d.csv", **columns)
    run("explain", "m", source, "--target", "p", "q", "r", "--json", "j", "--top", 1)
    found = json.loads((here / "j").read_text())
    assert [*found["partial dependence"][0]["means"]] == ["P(p=1)", "P(q=1)", "P(r=1)"]


def test_what_does_not_fit_is_said(error, here, trained):
    MLPClassifier(**QUICK).fit(X, y).save("m")
    columns = {name: X[:, i] for i, name in enumerate(NAMES)}
    source = table(here / "d.csv", **columns, kind=y)
    gone = table(here / "g.csv", **columns | {"thin": [None, *X[1:, 3].tolist()]}, kind=y)
    cases = {
        ("explain", "m", source): "no target column named; pass --target NAME",
        ("explain", "m", source, "--row", "0"): "d.csv: the network was fitted on 4 columns",
        ("explain", "m", source, "--target", "kind", "thin"): "d.csv: the network was fitted on 4",
        (
            "explain",
            "m",
            gone,
            "--target",
            "kind",
        ): "the network takes no missing values, and there "
        "are some: thin (1 row); fill them in, or leave out their rows",
        ("explain", trained / "label", trained / "d.csv", "--target", "label"): "--target is for "
        "files of estimators, and the model in",
        ("predict", "m", source): "not a model of a table: it holds an estimator; read it in Pyth",
    }
    for argv, message in cases.items():
        assert message in error(*argv)


def test_an_estimator_of_one_class_has_no_explanation(error, here):
    MLPClassifier(**QUICK).fit(X, y > 5).save("m")
    assert error("export", "m", "m.py") == (
        "the network was fitted on one class, False: it tells nothing apart"
    )
