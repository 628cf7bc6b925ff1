"""Whole fits from arrays to a trained model, and vectorised code compared with the loops of the
notes."""

import math
import warnings
from typing import Any

import numpy as np
import pytest

from bench.suites.race import Backend, Work
from nnaccel.maths.activations import ACTIVATIONS
from nnaccel.maths.layers.dense import dense
from nnaccel.training.benchmark import Shape, products
from nnaccel.training.loop import train

SHAPE, EPOCHS = Shape((64, 100, 10), 200), 20


def digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return (X / 16.0).astype("float32"), y


def fit(backend: Backend, how: str) -> Work:
    """20 epochs on the digits, by `train` or by the estimator, with its checks of the input."""
    X, y = digits()
    losses: list[float] = []

    def by_train() -> None:
        for epoch in train(
            SHAPE.network,
            X,
            y,
            loss="softmax_cross_entropy",
            epochs=EPOCHS,
            batch_size=SHAPE.batch,
            device=backend.device_name,
        ):
            losses.append(epoch.loss)

    def by_estimator() -> None:
        from nnaccel import MLPClassifier

        model = MLPClassifier(
            SHAPE.sizes[1:-1],
            batch_size=SHAPE.batch,
            max_iter=EPOCHS,
            tol=0.0,
            n_iter_no_change=100,
            device=backend.device_name,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 20 epochs do not converge, of which it warns
            losses.append(float(model.fit(X, y).loss_))

    steps = EPOCHS * math.ceil(len(X) / SHAPE.batch)
    bare = products(SHAPE, backend.device)
    return Work(
        by_train if how == "train" else by_estimator,
        1,
        lambda: bare(steps),
        steps * SHAPE.flops,
        EPOCHS * len(X),
        lambda: {"loss": losses[-1]},
    )


@pytest.mark.parametrize("how", ["train", "estimator"])
def test_fit(race, main_backend, how):
    race(fit, how, group="fit", case=f"digits, {EPOCHS} epochs, {how}")


def by_loops(X: Any, W: Any, b: Any) -> Any:
    """A = tanh(X W + b) by loops over examples, neurons and inputs, as in the notes."""
    A = [[0.0] * len(b) for _ in X]
    for i, x in enumerate(X):
        for h in range(len(b)):
            z = b[h]
            for d, value in enumerate(x):
                z += value * W[d][h]
            A[i][h] = math.tanh(z)
    return A


def by_examples(X: Any, W: Any, b: Any) -> Any:
    """A = tanh(X W + b) by a loop over examples, with vectors of neurons."""
    return np.stack([np.tanh(x @ W + b) for x in X])


def vectorised(X: Any, W: Any, b: Any) -> Any:
    """A = tanh(X W + b) by one matrix product."""
    return dense(X, W, b[None, :], ACTIVATIONS["tanh"], xp=np)[1]


FORMS = {"loops": by_loops, "examples": by_examples, "vectorised": vectorised}


def arrays(N: int, D: int, H: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D)), rng.standard_normal((D, H)), rng.standard_normal(H)


def layer_forward(backend: Backend, form: str, N: int, D: int, H: int) -> Work:
    X, W, b = arrays(N, D, H)
    args = (X.tolist(), W.tolist(), b.tolist()) if form == "loops" else (X, W, b)
    function = FORMS[form]
    return Work(lambda: function(*args), bare=lambda: X @ W, flops=2 * N * D * H, samples=N)


@pytest.mark.parametrize(("N", "D", "H"), [(400, 2, 4), (200, 64, 100)])
@pytest.mark.parametrize("form", FORMS)
def test_notes(race, main_backend, form, N, D, H):
    """One layer forward, in the three forms of the notes."""
    if main_backend.device_name != "cpu":
        pytest.skip("the notes are about NumPy")
    X, W, b = arrays(N, D, H)
    np.testing.assert_allclose(FORMS[form](X, W, b), np.tanh(X @ W + b), rtol=1e-9)
    race(layer_forward, form, N, D, H, group="notes", case=f"{D}-{H}x{N} {form}")
