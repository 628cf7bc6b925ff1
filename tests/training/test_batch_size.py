"""A batch of more rows than there are is all of them, on every path, and takes no more memory."""

import logging

import numpy as np
import pytest

from nnaccel.kernels import definition
from nnaccel.maths.network import mlp
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import read
from nnaccel.training.loop import train
from nnaccel.training.step import compile_run

from ..conftest import named

N, HUGE = 50, 2**40
NETWORK = mlp(4, [8], 3, activation="tanh", dropout=0.2)
rng = np.random.default_rng(0)
X, Y = rng.standard_normal((N, 4)), rng.integers(0, 3, N)


def run(X, batch_size, network=NETWORK, **options):
    options = {"loss": "softmax_cross_entropy", "epochs": 2, "batch_size": batch_size, **options}
    return [epoch.copy() for epoch in train(network, X, Y, **options)]


def assert_same(found, expected):
    assert [epoch.loss for epoch in found] == [epoch.loss for epoch in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one.params), np.asarray(other.params))


@pytest.mark.parametrize("kernels", [True, "numpy", False])
@pytest.mark.parametrize(
    ("device", "sizes"), [("cpu", [8]), ("cpu", [300, 300]), ("torch", [8]), ("jax", [8])]
)
def test_a_huge_batch_is_all_rows(device, sizes, kernels):
    named(device)
    options = {"network": mlp(4, sizes, 3), "device": device, "kernels": kernels}
    assert_same(run(X, HUGE, **options), run(X, N, **options))


@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_a_huge_batch_is_all_rows_of_a_stream(device):
    named(device)
    sparse = pytest.importorskip("scipy.sparse", reason="sparse matrices are SciPy's")
    found = run(sparse.csr_array(X), HUGE, device=device)
    assert_same(found, run(sparse.csr_array(X), N, device=device))


def test_no_backend_hears_of_more_rows_than_there_are(monkeypatch):
    heard = []

    def compiling(backend, run):
        heard.append(run.batch_size)
        return compile_run(backend, run)

    monkeypatch.setattr("nnaccel.training.loop.compile_run", compiling)
    run(X, HUGE)
    run(X, 7)
    assert heard == [N, 7]


def test_the_plan_of_a_table_is_of_the_rows_that_there_are(caplog):
    """It says which kernels run, and that depends on the batch."""
    caplog.set_level(logging.DEBUG, logger=definition.log.name)
    fit = Fit(read("iris"), Settings(batch_size=10**9, epochs=1, hidden=(8,)), kernels="numpy")
    list(fit)
    assert caplog.messages == [f"epoch: {fit.kernels}"]
