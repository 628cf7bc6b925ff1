"""Copies of estimators keep their arrays where they are; pickles hold NumPy's, and follow X."""

import copy
import pickle

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_score, cross_validate

from nnaccel import MLPClassifier, MLPRegressor
from nnaccel.devices.device import device_of, to_host

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("one_thread"),
]

X, Y = load_iris(return_X_y=True)
WAYS = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda e: pickle.loads(pickle.dumps(e)),
}


def arrays_of(estimator):
    step, slots = estimator._memory[1]
    return [*estimator.coefs_, *estimator.intercepts_, step, *slots]


@pytest.mark.parametrize("way", ["deepcopy", "copy"])
@pytest.mark.parametrize("dispatch", [False, True])
def test_copies_stay_where_they_are_and_predict_the_same(xp_device, way, dispatch):
    x, y = xp_device.asarray(X), xp_device.asarray(Y)
    with sklearn.config_context(array_api_dispatch=dispatch):
        clf = MLPClassifier((6,), random_state=0, max_iter=3).fit(x, y)
        twin = WAYS[way](clf)
        for array in [*arrays_of(twin), twin.classes_, twin.predict(x)]:
            xp_device.to_numpy(array)
        P = xp_device.to_numpy(clf.predict_proba(x))
        np.testing.assert_array_equal(xp_device.to_numpy(twin.predict_proba(x)), P)
        assert twin.get_params() == clf.get_params()
        assert twin.loss_curve_ == clf.loss_curve_


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_what_one_of_them_learns_the_other_does_not(xp_device, way, solver):
    x, y = xp_device.asarray(X), xp_device.asarray(Y)
    clf = MLPClassifier((6,), random_state=0, max_iter=3, solver=solver).fit(x, y)
    twin, before = WAYS[way](clf), to_host(clf.predict_proba(x)).copy()
    twin.partial_fit(x, y).partial_fit(x, y)
    np.testing.assert_array_equal(to_host(clf.predict_proba(x)), before)
    clf.partial_fit(x, y).partial_fit(x, y)  # from the same moments, to the same weights
    for ours, theirs in zip(clf.coefs_, twin.coefs_, strict=True):
        np.testing.assert_array_equal(to_host(ours), to_host(theirs))


@pytest.mark.parametrize("way", WAYS)
def test_a_warm_start_goes_on_from_a_copy(xp_device, way):
    x, y = xp_device.asarray(X), xp_device.asarray(Y)
    options = {"warm_start": True, "early_stopping": True, "max_iter": 4, "random_state": 0}
    clf = MLPClassifier((6,), **options).fit(x, y)
    twin = WAYS[way](clf)
    for estimator in (clf, twin):
        estimator.fit(x, y)
    assert len(twin.validation_scores_) == 8
    assert twin.validation_scores_ == clf.validation_scores_
    np.testing.assert_array_equal(to_host(twin.coefs_[0]), to_host(clf.coefs_[0]))


@pytest.mark.parametrize("dispatch", [False, True])
def test_out_of_a_pickle_it_predicts_where_its_arrays_are(xp_device, dispatch):
    x, y = xp_device.asarray(X), xp_device.asarray(Y)
    with sklearn.config_context(array_api_dispatch=dispatch):
        clf = MLPClassifier((6,), random_state=0, max_iter=3).fit(x, y)
        back = pickle.loads(pickle.dumps(clf))
        assert {type(a) for a in [*back.coefs_, back.classes_]} == {np.ndarray}
        P = xp_device.to_numpy(clf.predict_proba(x))
        for given in (x, X, X.tolist()):  # a pickle is of no place: it follows what it is given
            found = back.predict_proba(given)
            assert device_of(found) == (xp_device.device if given is x else device_of(X))
            np.testing.assert_allclose(to_host(found), P, atol=1e-12)
        xp_device.to_numpy(back.predict(x))
        assert back.score(x, y) == clf.score(x, y)
        xp_device.to_numpy(back.partial_fit(x, y).coefs_[0])  # where it is at home from now on


def test_out_of_a_pickle_it_predicts_on_the_device_that_its_parameter_names():
    pytest.importorskip("torch")
    clf = MLPClassifier((6,), device="torch", random_state=0, max_iter=3).fit(X, Y)
    back = pickle.loads(pickle.dumps(clf))
    assert (back.device, type(back.coefs_[0])) == ("torch", np.ndarray)
    assert back._computes(X, device_of(X), "predict").name == "torch:cpu"
    np.testing.assert_array_equal(back.predict_proba(X), clf.predict_proba(X))
    assert device_of(back.partial_fit(X, Y).coefs_[0]).name == "torch:cpu"


def test_out_of_a_pickle_it_computes_in_what_jax_has_of_64_bits():
    jax = pytest.importorskip("jax")
    back = pickle.loads(pickle.dumps(MLPClassifier(random_state=0, max_iter=3).fit(X, Y)))
    with jax.enable_x64(False):
        found = back.predict_proba(jax.numpy.asarray(X))
        assert found.dtype == jax.numpy.float32
        np.testing.assert_allclose(found, back.predict_proba(X), atol=1e-6)


def test_out_of_a_model_file_it_predicts_where_its_arrays_are(xp_device, tmp_path):
    x = xp_device.asarray(X)
    reg = MLPRegressor(max_iter=3).fit(x, Y * 1.0)
    reg.save(tmp_path / "m")
    with sklearn.config_context(array_api_dispatch=True):
        found = MLPRegressor.load(tmp_path / "m").predict(x)
        np.testing.assert_allclose(
            xp_device.to_numpy(found), xp_device.to_numpy(reg.predict(x)), atol=1e-12
        )


def test_clones_know_nothing_and_moved_estimators_stay(xp_device):
    x = xp_device.asarray(X)
    clf = MLPClassifier((6,), max_iter=2, random_state=0).fit(x, xp_device.asarray(Y))
    assert vars(clone(clf)) == vars(MLPClassifier((6,), max_iter=2, random_state=0))
    assert copy.deepcopy(clf.to("cpu")).coefs_[0].base is not clf.coefs_[0].base
    assert type(copy.deepcopy(clf).coefs_[0]) is np.ndarray


def test_cross_validation_with_arrays_of_another_library(xp_device):
    x, y = xp_device.asarray(X), xp_device.asarray(Y)
    clf = MLPClassifier((6,), random_state=0, max_iter=3)
    with sklearn.config_context(array_api_dispatch=True):
        found = cross_validate(clf, x, y, cv=3, return_estimator=True)
        for estimator in found["estimator"]:
            xp_device.to_numpy(copy.deepcopy(estimator).predict(x))
    np.testing.assert_allclose(found["test_score"], cross_val_score(clf, X, Y, cv=3))


def test_other_processes_take_and_return_copies_that_predict_on_torch():
    torch = pytest.importorskip("torch")
    x, y = torch.asarray(X), torch.asarray(Y)
    clf = MLPClassifier((6,), random_state=0, max_iter=3)
    alone = clf.fit(x, y).predict_proba(x)
    with joblib.parallel_config("loky", n_jobs=2):
        fitted = joblib.Parallel()(joblib.delayed(clf.fit)(x, y) for _ in range(2))
    with sklearn.config_context(array_api_dispatch=True):
        for estimator in fitted:
            assert isinstance(estimator.predict_proba(x), torch.Tensor)
            np.testing.assert_allclose(estimator.predict_proba(x), alone, atol=1e-9)
