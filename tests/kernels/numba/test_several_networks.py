"""Several networks beside each other: each as it is alone, whoever is missing or interrupted."""

import threading

import numpy as np
import pytest

from nnaccel import mlp
from nnaccel.kernels.backend import backend_of
from nnaccel.maths import metrics, optimizers, schedules
from nnaccel.maths.activations import get
from nnaccel.maths.layers import Dense, Dropout, PiecewiseLinear
from nnaccel.maths.network import Network
from nnaccel.training.step import initialize
from tests.kernels.test_epoch import assert_refuses, assert_same_run, examples, simple, trained

pytest.importorskip("numba")
pytest.importorskip("scipy")

from nnaccel.kernels.numba import epoch as compiled_epoch
from nnaccel.kernels.numba import thread_team
from nnaccel.kernels.numba.several_networks import Progress, shares, train_share
from nnaccel.kernels.numba.thread_team import run_parallel
from nnaccel.kernels.numpy import blas_threads

ENCODED = Network(
    3,
    (
        PiecewiseLinear(((-1.0, 0.0, 1.0), (-0.5, 0.5))),
        *(Dense(20, get("relu")), Dropout(0.2), Dense(9, get("relu")), Dropout(0.2), Dense(3)),
    ),
)


@pytest.fixture
def threads(monkeypatch):
    """Makes the BLAS leave so many threads, each worth starting; the largest team is of one."""
    from contextlib import contextmanager

    def of(size):
        @contextmanager
        def one_thread():
            with blas_threads.one_thread():
                yield size

        monkeypatch.setattr(compiled_epoch, "WORTH", 1)
        monkeypatch.setattr(compiled_epoch, "one_thread", one_thread)

    return of


def problem_of(K, network=ENCODED, N=75, **options):
    """With weights of each network's own, a share of them 0."""
    data = examples(N=N)
    rng = np.random.default_rng(3)
    weights = (rng.random((N, K)) * (rng.random((N, K)) < 0.8)).astype(np.float32)
    return simple(network, data=data._replace(weights=weights), **options)


def start_of(problem, K):
    params = initialize(problem.network, members=K).astype(problem.dtype)
    return params, problem.optimizer.init(params, xp=np)


def alone(problem, K, k):
    """Network k by itself."""
    params, state = start_of(problem, K)
    weights = np.ascontiguousarray(problem.data.weights[:, k])
    one = problem._replace(data=problem.data._replace(weights=weights))
    state = state._replace(slots=tuple(slot[k].copy() for slot in state.slots))
    return trained(one.small(numba=True), one, start=(params[k].copy(), state))


METRIC = metrics.for_loss("softmax_cross_entropy")


INTERPOLATED = pytest.mark.parametrize(
    "interpolated", [False, True], ids=["by products", "interpolated"]
)


@INTERPOLATED
@pytest.mark.parametrize("metric", [None, METRIC], ids=["loss", "metric"])
@pytest.mark.parametrize("work", [1, compiled_epoch.WORK])
@pytest.mark.parametrize(("K", "size"), [(5, 2), (2, 2), (3, 2), (5, 3), (2, 3), (1, 2), (4, 1)])
def test_each_network_has_the_bits_that_it_has_alone(
    K, size, work, metric, interpolated, threads, interpolating, monkeypatch
):
    """Whether two threads share a network or not, in one call or in one for each step."""
    threads(size)
    interpolating(interpolated)
    monkeypatch.setattr(compiled_epoch, "WORK", work)
    problem = problem_of(K, metric=metric, optimizer=optimizers.adamw(0.01))
    params, state, records = trained(problem.small(numba=True), problem, start=start_of(problem, K))
    for k in range(K):
        expected = alone(problem, K, k)
        np.testing.assert_array_equal(params[k], expected[0])
        np.testing.assert_array_equal(records[..., k], expected[2])
        for slot, reference in zip(state.slots, expected[1].slots, strict=True):
            np.testing.assert_array_equal(slot[k], reference)
        assert state.step == expected[1].step


RATES, DECAYS = np.array([0.01, 0.03, 0.002]), np.array([0.2, 0.0, 0.5])


@pytest.mark.parametrize("decay", [0.1, DECAYS], ids=["one decay", "decays"])
@pytest.mark.parametrize("rate", [0.01, schedules.one_cycle(RATES, 15)], ids=["one rate", "rates"])
def test_each_network_has_numbers_of_its_own(rate, decay, threads):
    """In the bits that it has alone with these numbers, each as float32 and in turns."""
    threads(2)
    problem = problem_of(3, optimizer=optimizers.adamw(rate, weight_decay=decay))
    found = trained(problem.small(numba=True), problem, start=start_of(problem, 3))
    for k in range(3):
        own = rate if isinstance(rate, float) else schedules.one_cycle(float(RATES[k]), 15)
        own_decay = decay if isinstance(decay, float) else float(DECAYS[k])
        one = problem._replace(optimizer=optimizers.adamw(own, weight_decay=own_decay))
        expected = alone(one, 3, k)
        np.testing.assert_allclose(found[0][k], expected[0], rtol=2e-6, atol=1e-7)
        np.testing.assert_allclose(found[2][..., k], expected[2], rtol=2e-6)


@INTERPOLATED
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_they_train_as_the_definition_has_it(dtype, interpolated, threads, interpolating, sizes):
    threads(2)
    interpolating(interpolated)
    problem = problem_of(5, metric=METRIC)
    data = problem.data
    data = data._replace(X=data.X.astype(dtype), weights=data.weights.astype(dtype))
    problem = problem._replace(data=data, dtype=dtype)
    found, expected = (
        trained(epoch, problem, start=start_of(problem, 5))
        for epoch in (problem.whole(numba=True), problem.steps())
    )
    assert_same_run(found, expected, dtype)
    assert set(sizes) == {2}


@pytest.mark.parametrize("n_steps", [1, 2, 7, 40])
@pytest.mark.parametrize(("K", "size"), [(5, 2), (5, 3), (7, 4), (4, 4), (6, 3), (3, 1), (9, 8)])
def test_every_step_of_every_network_is_done_once_and_after_those_before_it(K, size, n_steps):
    seen, when = [], {}
    for rank in range(size):
        time = 0
        for k, span in shares(K, n_steps, rank, size):
            for step in span:
                seen.append((k, step))
                when[k, step] = time
                time += 1
        assert abs(time - K * n_steps / size) < 1
    assert sorted(seen) == [(k, step) for k in range(K) for step in range(n_steps)]
    # A thread that is a step ahead of another one waits for it.
    assert all(when[k, s] <= when[k, s + 1] for k in range(K) for s in range(n_steps - 1))


# How many threads there are.


def test_a_thread_is_started_where_it_is_worth_it(sizes):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    network = mlp(3, [300, 300], 3)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        for N, expected in ((16, 1), (1000, 2)):
            problem = problem_of(3, network, N=N)
            trained(problem.small(numba=True), problem, epochs=1, start=start_of(problem, 3))
            assert set(sizes) == {expected}
            sizes.clear()
        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    assert {pool["num_threads"] for pool in pools} == {2}


def test_small_networks_have_the_threads_that_their_run_keeps_from_the_blas(sizes, monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(compiled_epoch, "WORTH", 1)
    problem = problem_of(3)
    with (
        threadpoolctl.threadpool_limits(2, user_api="blas"),
        backend_of(np).context(problem.network, problem.batch_size),
    ):
        trained(problem.small(numba=True), problem, epochs=1, start=start_of(problem, 3))
    assert sizes == [2]


def test_few_networks_on_many_threads_are_teams(team, sizes):
    team(5)
    problem = problem_of(2)
    trained(problem.small(numba=True), problem, epochs=1, start=start_of(problem, 2))
    assert sizes == [5, 5]


# Threads that do not come, or have to go.


def test_where_no_thread_can_be_started_one_trains_all_networks(threads, monkeypatch):
    threads(2)
    problem = problem_of(5)
    expected = trained(problem.small(numba=True), problem, start=start_of(problem, 5))

    class Refused(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(thread_team.threading, "Thread", Refused)
    found = trained(problem.small(numba=True), problem, start=start_of(problem, 5))
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_or_an_interrupt_in_one_ends_all(failing, error):
    """Those that train and those that wait for the first steps of a network."""
    before, done = threading.active_count(), [0, 0]

    def go(rank, k, span):
        for _ in span:
            if rank == failing and done[rank] == 3:
                raise error
            done[rank] += 1
            threading.Event().wait(0.002)
            yield

    with pytest.raises(error):
        run_parallel(train_share, 2, 1000, Progress(5, 2), go)
    assert threading.active_count() == before
    assert max(done) < 2000


def test_who_waits_for_the_steps_of_a_thread_that_failed_goes_home():
    """Rank 1 has nothing left to do but the last steps of the network that rank 0 is to begin."""
    trained_last, waiting = [], threading.Event()

    def go(rank, k, span):
        if rank == 0:
            waiting.wait()
            raise MemoryError
        if span.start:
            trained_last.append(k)
        elif k == 2:
            waiting.set()
        yield

    with pytest.raises(MemoryError):
        run_parallel(train_share, 2, 4, Progress(3, 2), go)
    assert trained_last == []


def test_the_first_thread_waits_for_the_others_and_can_be_interrupted():
    """By then the other one has something left to do, which it does not begin."""
    steps, before = [], threading.active_count()

    class Impatient(Progress):
        def wait_for(self, event):
            if event is self.ended[1]:
                raise KeyboardInterrupt
            return super().wait_for(event)

    def go(rank, k, span):
        for step in span if rank else []:
            steps.append(step)
            threading.Event().wait(0.01)
            yield

    with pytest.raises(KeyboardInterrupt):
        run_parallel(train_share, 2, 1000, Impatient(2, 2), go)
    assert len(steps) < 1000
    assert threading.active_count() == before


def test_without_a_limit_on_the_blas_small_networks_go_one_by_one(monkeypatch, sizes):
    monkeypatch.setattr(blas_threads, "_controller", lambda: None)
    monkeypatch.setattr(compiled_epoch, "WORTH", 1)
    problem = problem_of(2)
    trained(problem.small(numba=True), problem, epochs=1, start=start_of(problem, 2))
    assert sizes == [1, 1]
    large = problem_of(2, mlp(3, [2000, 2000], 3))
    assert_refuses(large.small(numba=True), large, start_of(large, 2))


def test_the_kernels_say_that_they_know_the_encoding():
    assert backend_of(np).explain(problem_of(5).run_on(np)).startswith("Numba, ")
