"""Estimators on arrays of every library: who follows whom, and what never leaves its device."""

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.datasets import load_iris
from sklearn.utils import _array_api

from nnaccel import MLPClassifier, MLPRegressor
from nnaccel.devices.device import device_of, select, to_host
from nnaccel.estimators.array_input import is_foreign
from nnaccel.maths.network import value_and_grad

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("one_thread"),
]

X, Y = load_iris(return_X_y=True)
T = X[:, 0] / 3.0


@pytest.fixture(params=[False, True], ids=["plain", "dispatch"])
def dispatch(request):
    with sklearn.config_context(array_api_dispatch=request.param):
        yield request.param


@pytest.mark.parametrize("options", [{}, {"solver": "lbfgs"}, {"early_stopping": True}])
def test_everything_follows_X(xp_device, dispatch, options):
    options = {"random_state": 0, "max_iter": 4} | options
    x, y, t = xp_device.asarray(X), xp_device.asarray(Y), xp_device.asarray(T)
    clf = MLPClassifier((7,), **options).fit(x, y)
    reg = MLPRegressor(hidden_layer_sizes=7, **options).fit(x, t)
    results = [
        *(getattr(clf, m)(x) for m in ("predict", "predict_proba")),
        clf.predict_log_proba(x),
        clf.classes_,
        reg.predict(x),
        *clf.coefs_,
        *reg.intercepts_,
    ]
    for result in results:
        xp_device.to_numpy(result)
    expected = MLPClassifier((7,), **options).fit(X, Y)
    np.testing.assert_allclose(to_host(results[1]), expected.predict_proba(X), atol=1e-8)
    assert type(clf.score(x, y)) is float
    assert clf.score(x, y) == pytest.approx(expected.score(X, Y))
    assert np.isfinite(reg.score(x, t))


def test_dtypes_follow_X(xp_device):
    x = xp_device.asarray(X.astype(np.float32))
    clf = MLPClassifier(max_iter=2).fit(x, xp_device.asarray(Y))
    assert clf.coefs_[0].dtype == clf.predict_proba(x).dtype == xp_device.xp.float32
    whole = xp_device.asarray(np.round(X).astype(np.int32))
    clf = MLPClassifier(max_iter=2, dtype="float32").fit(whole, xp_device.asarray(Y))
    assert clf.predict_proba(whole).dtype == xp_device.xp.float32
    assert MLPClassifier(max_iter=2).fit(whole, Y).coefs_[0].dtype == xp_device.xp.float64


def test_targets_and_weights_may_come_from_elsewhere(xp_device, dispatch):
    x, w = xp_device.asarray(X), np.linspace(1.0, 2.0, 150)
    clf = MLPClassifier(random_state=0, max_iter=3).fit(x, Y, w)
    same = MLPClassifier(random_state=0, max_iter=3).fit(
        X, xp_device.asarray(Y), xp_device.asarray(w)
    )
    np.testing.assert_allclose(to_host(clf.coefs_[0]), same.coefs_[0], atol=1e-9)
    names = np.array(["a", "b", "c"])[Y]
    named = MLPClassifier(random_state=0, max_iter=3).fit(x, names, w)
    assert type(named.predict(x)) is np.ndarray
    assert set(named.predict(x)) <= set("abc")
    held = MLPClassifier(max_iter=2).fit(x, Y, validation_data=(X, xp_device.asarray(Y)))
    assert len(held.validation_loss_curve_) == 2


def test_labels_partial_fit_and_warm_start(xp_device, dispatch):
    x, labels = xp_device.asarray(X), np.stack([Y > 0, Y > 1], axis=1) * 1
    clf = MLPClassifier(random_state=0, learning_rate_init=0.05)
    for _ in range(8):
        clf.partial_fit(x, xp_device.asarray(labels))
    assert (xp_device.to_numpy(clf.predict(x)) == labels).mean() > 0.6
    warm = MLPClassifier(random_state=0, warm_start=True, max_iter=2)
    assert len(warm.fit(x, xp_device.asarray(Y)).fit(x, xp_device.asarray(Y)).loss_curve_) == 4


def test_another_library_at_prediction(xp_device):
    if xp_device.name.startswith("numpy"):
        pytest.skip("NumPy is no other library")
    x = xp_device.asarray(X)
    clf = MLPClassifier(random_state=0, max_iter=3).fit(x, xp_device.asarray(Y))
    P = clf.predict_proba(x)
    # Without dispatch arrays are moved; with it scikit-learn wants to be told.
    moved = clf.predict_proba(X)
    assert type(moved) is np.ndarray
    np.testing.assert_allclose(moved, to_host(P), atol=1e-12)
    if not hasattr(_array_api, "check_same_namespace"):
        pytest.skip("this scikit-learn has no rule for it")
    with sklearn.config_context(array_api_dispatch=True):
        with pytest.raises(ValueError, match=r"MLPClassifier.predict\(\) must use the same"):
            clf.predict(X)
        home = _array_api.move_estimator_to(clf, np, None)
        np.testing.assert_allclose(home.predict_proba(X), to_host(P), atol=1e-12)


def test_a_named_device_takes_arrays_of_every_library(xp_device, dispatch):
    x, y = xp_device.asarray(X), xp_device.asarray(Y)
    clf = MLPClassifier(random_state=0, max_iter=3, device="cpu").fit(x, y)
    assert type(clf.coefs_[0]) is np.ndarray
    xp_device.to_numpy(clf.predict_proba(x))
    assert type(clf.predict_proba(X)) is np.ndarray
    np.testing.assert_array_equal(to_host(clf.predict_proba(x)), clf.predict_proba(X))
    assert clf.predict(X.tolist()).shape == (150,)


def test_torch_by_name_and_home_again():
    pytest.importorskip("torch")
    clf = MLPClassifier((8,), device="torch", max_iter=5, random_state=0).fit(X, Y)
    assert device_of(clf.coefs_[0]).name == "torch:cpu"
    P = clf.predict_proba(X)
    assert type(P) is type(clf.predict(X)) is np.ndarray
    sparse = clf.predict_proba(sp.csr_array(X))
    np.testing.assert_allclose(sparse, P, atol=1e-12)
    assert clf.to("cpu") is clf
    assert type(clf.coefs_[0]) is np.ndarray
    np.testing.assert_allclose(clf.predict_proba(X), P, atol=1e-12)
    with pytest.raises(ValueError, match="device must be one of"):
        clf.to("tpu9")


@pytest.mark.parametrize("trained_on", ["cpu", "torch", "jax:cpu"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_predictions_on_another_device_than_that_of_the_training(trained_on, solver):
    pytest.importorskip({"cpu": "numpy"}.get(trained_on, trained_on.partition(":")[0]))
    clf = MLPClassifier((8,), device=trained_on, max_iter=5, random_state=0, solver=solver)
    P = clf.fit(X, Y).predict_proba(X)
    for name in ("torch", "jax:cpu", "cpu"):
        pytest.importorskip({"cpu": "numpy"}.get(name, name.partition(":")[0]))
        assert clf.to(name) is clf
        assert device_of(clf.coefs_[0]).name == select(name).name
        found = clf.predict_proba(X)
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, P, atol=1e-12)
    if solver == "adam":
        clf.to("torch").partial_fit(X, Y)  # and goes on learning there
        assert device_of(clf.coefs_[0]).name == "torch:cpu"


def test_sparse_on_another_library():
    pytest.importorskip("torch")
    dense, sparse = (
        MLPClassifier((8,), device="torch", max_iter=4, random_state=0).fit(data, Y)
        for data in (X, sp.csr_matrix(X))
    )
    np.testing.assert_allclose(to_host(dense.coefs_[0]), to_host(sparse.coefs_[0]), atol=1e-10)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (X[0], "X must be 2-D|Expected 2D array"),
        (X[:0], "Found array with 0 sample"),
        (np.where(X > 6.0, np.nan, X), "NaN"),
        (X.astype(complex), "Complex data not supported"),
        (X[:, :2], "X has 2 features, but MLPClassifier is expecting 4"),
    ],
)
def test_bad_arrays_are_named(xp_device, dispatch, bad, match):
    clf = MLPClassifier(max_iter=2).fit(xp_device.asarray(X), xp_device.asarray(Y))
    with pytest.raises(ValueError, match=match):
        clf.predict(xp_device.asarray(bad))


def test_memory_is_shared_where_it_can_be():
    torch = pytest.importorskip("torch")
    assert is_foreign(torch.ones(1))
    assert not any(is_foreign(x) for x in (np.ones(1), [1.0], None, sp.csr_array(X)))
    clf = MLPClassifier(max_iter=2, device="cpu").fit(X, Y)
    tensor = torch.from_numpy(X)
    assert np.shares_memory(device_of(clf.coefs_[0]).asarray(tensor), X)


def tracing(monkeypatch, module):
    """A list that grows whenever that module has JAX trace the training step."""
    traced = []

    def traced_too(*args, **kwargs):
        traced.append(args)
        return value_and_grad(*args, **kwargs)

    monkeypatch.setattr(f"nnaccel.{module}.value_and_grad", traced_too)
    return traced


@pytest.mark.parametrize(
    "options",
    [{}, {"solver": "sgd"}, {"clip_norm": 1.0}, {"alpha": 0.0}, {"dropout": 0.3, "alpha": 0.0}],
)
def test_jax_compiles_for_the_first_of_equal_runs_alone(monkeypatch, options):
    pytest.importorskip("jax")
    traced = tracing(monkeypatch, "training.step")
    # A width of its own, so that no other test has had it compiled.
    clf = MLPClassifier((3, 3 + len(options)), device="jax", max_iter=2, beta_2=0.99, **options)
    clf.set_params(random_state=0)
    clf.partial_fit(X, Y, classes=[0, 1, 2])
    before = len(traced)
    assert before
    clf.partial_fit(X, Y)
    clf.fit(X, Y)
    clf.set_params(random_state=2**31 - 1).fit(X, Y)
    assert len(traced) == before
    clf.set_params(learning_rate_init=0.02).fit(X, Y)
    assert len(traced) > before


def test_jax_compiles_the_objective_of_lbfgs_once(monkeypatch):
    pytest.importorskip("jax")
    traced = tracing(monkeypatch, "estimators.lbfgs_fit")
    clf = MLPClassifier((3, 2, 3), device="jax", max_iter=3, solver="lbfgs").fit(X, Y)
    before = len(traced)
    assert before
    clf.fit(X, Y)
    assert len(traced) == before
