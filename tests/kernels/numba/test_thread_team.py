"""The compiled epoch on a team of threads: the same training, whoever is missing or interrupted."""

import threading

import numpy as np
import pytest

from nnaccel import mlp
from nnaccel.maths import metrics
from nnaccel.maths.activations import get
from nnaccel.maths.layers import Dense
from nnaccel.maths.network import Network
from tests.kernels.test_epoch import (
    LOSSES,
    OPTIMIZERS,
    assert_refuses,
    assert_same_run,
    examples,
    simple,
    trained,
)

pytest.importorskip("numba")
pytest.importorskip("scipy")

from nnaccel.kernels.numba import epoch as compiled_epoch
from nnaccel.kernels.numba import thread_team
from nnaccel.kernels.numba.blas import product
from nnaccel.kernels.numba.thread_team import barrier_wait, run_parallel
from nnaccel.kernels.numpy import blas_threads
from nnaccel.kernels.numpy.backend import NumPyBackend


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize(("loss", "K"), LOSSES)
def test_a_team_trains_as_one_does(size, loss, K, team, sizes):
    """Also where some have no unit, no example and no parameter, and a last batch that is short."""
    team(size)
    network = mlp(5, [40, 3], K, activation="leaky_relu")
    data = examples(loss, K, N=101, D=5, weighted=True)
    metric = metrics.for_loss(loss)
    options = {"metric": metric, "batch_size": 33, "l2": 0.01}
    problem = simple(network, OPTIMIZERS["scheduled adamw"], data, loss, **options)
    found = trained(problem.small(numba=True), problem)
    assert_same_run(found, trained(problem.steps(), problem))
    assert set(sizes) == {size}


@pytest.mark.parametrize("hidden", [[], [17], [64, 48, 32]])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "identity"])
def test_a_team_knows_every_depth_and_activation(hidden, activation, team):
    team(2)
    data = examples(N=90)
    problem = simple(mlp(3, hidden, 3, activation=activation), data=data, batch_size=40)
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_team_computes_in_float64(size, team, sizes):
    team(size)
    network = mlp(3, [70, 40, 20], 3, activation=["tanh", "sigmoid", "relu"], dropout=0.2)
    data = examples(dtype="float64", N=150, weighted=True)
    problem = simple(network, dtype="float64", data=data, batch_size=64, l2=0.01)
    found = trained(problem.small(numba=True), problem)
    assert_same_run(found, trained(problem.steps(), problem), "float64")
    assert set(sizes) == {size}


def test_a_team_derives_the_activation_of_the_last_layer(team):
    team(3)
    network = Network(3, (Dense(20, get("tanh")), Dense(2, get("sigmoid"))))
    data = examples("squared_error", 2, N=100)
    problem = simple(network, data=data, loss="squared_error", batch_size=50)
    assert_same_run(trained(problem.small(numba=True), problem), trained(problem.steps(), problem))


@pytest.mark.parametrize(("D", "batch_size"), [(128, 100), (100, 128), (128, 200), (256, 192)])
@pytest.mark.parametrize("size", [1, 2])
def test_rows_that_are_padded(D, batch_size, size, team):
    """The last batch has 192 or 64 examples, whose rows are padded though those of 200 are not."""
    team(size)
    data = examples(N=batch_size + 64 * (1 + 2 * (batch_size == 200)), D=D)
    problem = simple(mlp(D, [40], 3), data=data, batch_size=batch_size)
    found, expected = (
        trained(epoch, problem) for epoch in (problem.small(numba=True), problem.steps())
    )
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-4)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-3)


def test_the_same_team_gives_the_same_bits(team):
    team(3)
    problem = simple(mlp(3, [100, 50], 3), data=examples(N=200), batch_size=64)
    runs = [trained(problem.small(numba=True), problem) for _ in range(3)]
    for params, state, records in runs[1:]:
        np.testing.assert_array_equal(params, runs[0][0])
        np.testing.assert_array_equal(records, runs[0][2])
        for slot, reference in zip(state.slots, runs[0][1].slots, strict=True):
            np.testing.assert_array_equal(slot, reference)


@pytest.mark.parametrize(("name", "amount"), [("WORK", 1), ("WORK", 5000), ("LOGITS", 100)])
def test_an_epoch_in_several_calls_is_the_same(name, amount, monkeypatch, sizes):
    metric = metrics.for_loss("softmax_cross_entropy")
    problem = simple(data=examples(weighted=True), metric=metric)
    expected = trained(problem.small(numba=True), problem)
    n_calls = len(sizes)
    monkeypatch.setattr(compiled_epoch, name, amount)
    found = trained(problem.small(numba=True), problem)
    assert len(sizes) > 2 * n_calls
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[2], expected[2])


# How large a team is.


LARGE = mlp(64, [512, 512], 3)  # whose largest product would do for four


@pytest.fixture
def large():
    data = examples(N=256, D=64)
    return simple(LARGE, data=data, batch_size=128)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_team_is_as_large_as_the_blas_had_threads(threads, large, sizes):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(threads, user_api="blas"):
        trained(large.small(numba=True), large, epochs=1)
        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    assert {pool["num_threads"] for pool in pools} == {threads}
    assert sizes == [threads]


def test_a_small_network_has_one_thread(sizes):
    problem = simple()
    trained(problem.small(numba=True), problem, epochs=1)
    assert sizes == [1]


def test_beside_another_thread_that_trains_there_is_no_team(large, sizes):
    thread = threading.Thread(target=lambda: trained(large.small(numba=True), large, epochs=1))
    with blas_threads.one_thread():
        thread.start()
        thread.join()
    assert sizes == [1]


def test_without_a_limit_on_the_blas_large_networks_are_left_to_the_steps(large, monkeypatch):
    monkeypatch.setattr(blas_threads, "_controller", lambda: None)
    assert_refuses(large.small(numba=True), large)
    steps = large.steps(NumPyBackend(np).operations())  # which round as these do, on any processor
    assert_same_run(trained(large.whole(numba=True), large), trained(steps, large))
    small = simple()
    assert_same_run(trained(small.small(numba=True), small), trained(small.steps(), small))


# Threads that do not come, or have to go.


def test_where_no_thread_can_be_started_one_goes_alone(large, monkeypatch):
    expected = trained(large.small(numba=True), large)

    class Refused(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(thread_team.threading, "Thread", Refused)
    found = trained(large.small(numba=True), large)
    # Products of other shapes round otherwise, which Adam makes much of where a gradient is tiny.
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-4)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-3)


def test_those_who_wait_for_somebody_who_was_interrupted_go_home():
    gone, before = [], threading.active_count()

    def member(rank, size, barrier):
        if rank == 0:
            raise KeyboardInterrupt
        assert not barrier_wait(barrier, size)
        gone.append(rank)

    with pytest.raises(KeyboardInterrupt):
        run_parallel(member, 3)
    assert sorted(gone) == [1, 2]
    assert threading.active_count() == before


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_of_one_ends_all(failing):
    def member(rank, size, barrier):
        if rank == failing:
            raise MemoryError(rank)
        assert not barrier_wait(barrier, size)

    with pytest.raises(MemoryError, match=str(failing)):
        run_parallel(member, 3)


def test_a_meeting_lets_nobody_go_on_before_all_are_there():
    places = np.zeros(3)

    def member(rank, size, barrier):
        for step in range(1, 200):
            places[rank] = step
            assert barrier_wait(barrier, size)
            assert places.min() == places.max() == step
            assert barrier_wait(barrier, size)

    run_parallel(member, 3)
    assert places.tolist() == [199] * 3


def as_they_lie(x):
    wide = np.zeros((x.shape[0], x.shape[1] + 3), x.dtype)
    wide[:, 1:-2] = x
    tall = np.zeros((x.shape[1], x.shape[0] + 3), x.dtype)
    tall[:, 1:-2] = x.T
    return {
        "rows": np.ascontiguousarray(x),
        "columns": np.asfortranarray(x),
        "part of rows": wide[:, 1:-2],
        "part of columns": tall[:, 1:-2].T,
    }


@pytest.mark.parametrize(("m", "k", "n"), [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1)])
def test_products_of_matrices_as_they_lie(m, k, n):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((m, k)).astype(np.float32)
    Y = rng.standard_normal((k, n)).astype(np.float32)
    for how_X, left in as_they_lie(X).items():
        for how_Y, right in as_they_lie(Y).items():
            for gap in (0, 2):
                out = np.full((m + 2, n + gap), np.nan, np.float32)
                product(left, right, np.float32(0.5), out[1:-1, : n or None])
                label = f"{how_X}, {how_Y}, {gap}"
                np.testing.assert_allclose(out[1:-1, :n], 0.5 * X @ Y, rtol=1e-5, err_msg=label)
                assert np.isnan(out[0]).all()
                assert np.isnan(out[-1]).all()
                assert np.isnan(out[:, n:]).all()


def test_a_product_with_nothing_in_it_does_nothing():
    X, Y = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    one = np.float32(1)
    product(X[:0], Y, one, np.empty((0, 5), np.float32))
    product(X, Y[:, :0], one, np.empty((3, 0), np.float32))


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 100, 784])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_shares_of_a_team_are_all_there_is(n, size):
    shares = [compiled_epoch.share_of(n, rank, size) for rank in range(size)]
    taken = [i for start, stop in shares for i in range(start, stop)]
    assert taken == list(range(n))


def test_a_team_diverges_where_one_would(team):
    team(2)
    data = examples(N=80)
    data = data._replace(X=np.where(np.arange(80)[:, None] == 3, np.nan, data.X))
    problem = simple(mlp(3, [40], 3), data=data, batch_size=40)
    _, _, records = trained(problem.small(numba=True), problem, epochs=2)
    assert not np.isfinite(records[1]).any()
