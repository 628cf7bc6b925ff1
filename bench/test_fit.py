"""From arrays to a trained model, and what vectorisation buys over the loops of the notes."""

import math

import numpy as np
import pytest
from conftest import bare_steps

from nnaccel.maths.activations import ACTIVATIONS
from nnaccel.maths.layers.dense import dense
from nnaccel.training.benchmark import Shape
from nnaccel.training.loop import train

SHAPE, EPOCHS = Shape((64, 100, 10), 200), 20


@pytest.fixture(scope="module")
def digits():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    X, y = sklearn_datasets.load_digits(return_X_y=True)
    return (X / 16.0).astype("float32"), y


def work(device, N):
    """What `record` is told of a fit to N examples."""
    steps = EPOCHS * math.ceil(N / SHAPE.batch)
    return {
        "device": device,
        "bare": bare_steps(SHAPE, device, steps),
        "flops": steps * SHAPE.flops,
        "samples": EPOCHS * N,
        "rounds": 5,
    }


@pytest.mark.benchmark(group="fit")
def test_train(record, benchmark, device, digits):
    """`nnaccel.training.loop.train` on the digits, 20 epochs."""
    X, y = digits

    def fit():
        return list(
            train(
                SHAPE.network,
                X,
                y,
                loss="softmax_cross_entropy",
                epochs=EPOCHS,
                batch_size=SHAPE.batch,
                device=device,
            )
        )

    record(fit, **work(device, len(X)))
    benchmark.extra_info["final_loss"] = fit()[-1].loss


@pytest.mark.benchmark(group="fit")
def test_estimator(record, benchmark, device, digits):
    """The estimator on the digits, 20 epochs, with its checks of the input."""
    estimators = pytest.importorskip("nnaccel.estimators.classifier")
    X, y = digits
    model = estimators.MLPClassifier(
        SHAPE.sizes[1:-1],
        batch_size=SHAPE.batch,
        max_iter=EPOCHS,
        tol=0.0,
        n_iter_no_change=100,
        device=device.name,
    )

    def fit():
        with pytest.warns() as _:  # 20 epochs are not convergence, and it says so
            return model.fit(X, y)

    record(fit, **work(device, len(X)))
    benchmark.extra_info["final_loss"] = float(model.loss_)


def by_loops(X, W, b):
    """A = tanh(X W + b) as the notes first write it: over examples, neurons and inputs."""
    A = [[0.0] * len(b) for _ in X]
    for i, x in enumerate(X):
        for h in range(len(b)):
            z = b[h]
            for d, value in enumerate(x):
                z += value * W[d][h]
            A[i][h] = math.tanh(z)
    return A


def by_examples(X, W, b):
    """The same with vectors of neurons, over examples."""
    return np.stack([np.tanh(x @ W + b) for x in X])


@pytest.mark.benchmark(group="notes")
@pytest.mark.parametrize("form", ["loops", "examples", "vectorised"])
@pytest.mark.parametrize(("N", "D", "H"), [(400, 2, 4), (200, 64, 100)])
def test_notes(record, form, N, D, H):
    """One layer forward: by loops over examples and neurons, over examples, and by one product."""
    rng = np.random.default_rng(0)
    X, W, b = rng.standard_normal((N, D)), rng.standard_normal((D, H)), rng.standard_normal(H)
    if form == "loops":
        function, args = by_loops, (X.tolist(), W.tolist(), b.tolist())
    elif form == "examples":
        function, args = by_examples, (X, W, b)
    else:

        def function(X, W, b):
            return dense(X, W, b[None, :], ACTIVATIONS["tanh"], xp=np)[1]

        args = (X, W, b)
    np.testing.assert_allclose(function(*args), np.tanh(X @ W + b), rtol=1e-9)
    repeats = 1 if form == "loops" else 20

    def run():
        for _ in range(repeats):
            function(*args)

    def bare():
        for _ in range(repeats):
            np.matmul(X, W)

    flops = 2 * N * D * H
    record(run, bare=bare, repeats=repeats, flops=flops, samples=N, rounds=5, form=form)
