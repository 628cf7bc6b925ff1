"""The limit on BLAS threads: where it is set, and that it is lifted."""

import threading

import numpy as np
import pytest

from nnaccel import MLPClassifier, mlp, train
from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.numpy import blas_threads
from nnaccel.kernels.numpy.blas_threads import one_thread
from nnaccel.maths.network import value_and_grad

threadpoolctl = pytest.importorskip("threadpoolctl", reason="the limit is set by threadpoolctl")

SMALL = mlp(64, [100], 10)
LARGE = mlp(1024, [1024], 10)


def pools_of_blas():
    """Of the BLAS that NumPy has loaded; SciPy may bring another one later."""
    pools = blas_threads._controller().info()
    return {pool["num_threads"] for pool in pools if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads():
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        if pools_of_blas() != {2}:
            pytest.skip("the BLAS of this machine has one thread")
        yield


def test_small_products_take_one_thread_and_large_ones_all():
    with backend_of(np).context(SMALL, 200):
        assert pools_of_blas() == {1}
    assert pools_of_blas() == {2}
    with backend_of(np).context(LARGE, 200):
        assert pools_of_blas() == {2}


def test_a_team_of_python_threads_has_a_thread_of_the_blas_each():
    with backend_of(np).team() as n:
        assert (n, pools_of_blas()) == (2, {1})
        with backend_of(np).team() as again:  # those threads are still its own
            assert again == 2
    assert pools_of_blas() == {2}
    with backend_of(np, kernels=False).team() as n:
        assert (n, pools_of_blas()) == (1, {2})


def test_other_libraries_have_threads_of_their_own():
    xp = pytest.importorskip("array_api_compat.torch")
    with backend_of(xp).context(SMALL, 200):
        assert pools_of_blas() == {2}


def test_only_the_first_of_two_python_threads_sets_and_lifts_the_limit():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_thread():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with one_thread():
        thread.start()
        assert inside.wait(10)
        assert pools_of_blas() == {1}
    assert pools_of_blas() == {2}
    leave.set()
    thread.join()
    assert pools_of_blas() == {2}


def test_an_error_lifts_it():
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert pools_of_blas() == {2}


def test_between_two_epochs_the_process_has_its_threads():
    X, Y = np.zeros((20, 64), "float32"), np.zeros(20, "int64")
    for _ in train(SMALL, X, Y, loss="softmax_cross_entropy", epochs=2):
        assert pools_of_blas() == {2}


def test_it_can_be_entered_twice():
    with one_thread(), one_thread():
        assert pools_of_blas() == {1}
    assert pools_of_blas() == {2}


def test_without_threadpoolctl_nothing_is_limited(monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(blas_threads, "_controller", lambda: None)
        limit = backend_of(np).context(SMALL, 200)
        with limit as others:
            without.undo()
            assert others == 0
            assert pools_of_blas() == {2}


def test_what_it_leaves_to_others():
    with one_thread() as others:
        assert others == 2
        with one_thread() as more:
            assert more == 2
        beside = []
        thread = threading.Thread(target=lambda: beside.append(one_thread().__enter__()))
        thread.start()
        thread.join()
        assert beside == [1]
    with one_thread() as others:
        assert others == 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("n_features", "threads"), [(8, {1}), (1024, {2})])
def test_lbfgs_limits_the_products_of_a_small_network(monkeypatch, n_features, threads):
    seen = []

    def counting(*args, **kwargs):
        seen.append(pools_of_blas())
        return value_and_grad(*args, **kwargs)

    monkeypatch.setattr("nnaccel.estimators.lbfgs_fit.value_and_grad", counting)
    X = np.random.default_rng(0).standard_normal((200, n_features))
    MLPClassifier((64,), solver="lbfgs", max_iter=2).fit(X, X[:, 0] > 0)
    assert seen
    assert all(found == threads for found in seen)
    assert pools_of_blas() == {2}
