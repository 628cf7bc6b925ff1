"""Searches in several processes give the scores of one, with whatever runs them."""

from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimators need scikit-learn")

import joblib
from sklearn.model_selection import GridSearchCV

from nnaccel import MLPClassifier

X = np.random.default_rng(0).standard_normal((60, 3))
Y = np.where(X[:, 0] > 0, "yes", "no")


def scores():
    model = MLPClassifier((5,), max_iter=3, random_state=0)
    search = GridSearchCV(model, {"alpha": [1e-4, 1.0], "solver": ["adam", "sgd"]}, cv=2, n_jobs=2)
    return search.fit(X, Y).cv_results_["mean_test_score"]


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("backend", ["loky", "dask", "ray"])
def test_scores_are_those_of_one_process(backend, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    with joblib.parallel_config(backend="sequential"):
        expected = scores()
    if backend == "loky":
        np.testing.assert_array_equal(scores(), expected)
        return
    if not find_spec("distributed" if backend == "dask" else backend):
        pytest.skip(f"needs {backend}")
    if backend == "dask":
        from distributed import Client

        client = Client(n_workers=1, threads_per_worker=1, processes=True)
    else:
        from ray.util.joblib import register_ray

        register_ray()
    with joblib.parallel_config(backend=backend):
        np.testing.assert_array_equal(scores(), expected)
    if backend == "dask":
        client.close()
