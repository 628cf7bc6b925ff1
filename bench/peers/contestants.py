"""The contestants: each trains the same network on the same minibatches, in the way of its users.

A contestant is a function from a `Problem` to `run(epochs) -> mean loss of the last epoch`. An
epoch goes through `problem.order`, picks the rows of each minibatch from the data set, takes an
Adam step on the mean softmax cross-entropy with class numbers, or with one output on the binary one
of its sigmoid, float32, relu, and keeps the loss of each step on the device. A contestant imports
its library itself and runs alone in its process, since two BLAS thread pools in one process slow
each other down by up to ten times.

Contestants that also run on a GPU take a device, "cpu" or "cuda", and a name of `PRECISIONS`; None:
the default of the library.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.peers.with_jax import jax_jit, jax_scan
from bench.peers.with_torch import torch_compiled, torch_eager, torch_graphs
from bench.shared.precisions import PRECISIONS
from bench.shared.shapes import LEARNING_RATE, Problem
from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.cuda.backend import CuPyBackend

Run = Callable[[int], float]


def products(problem: Problem, device: str = "cpu", precision: str | None = None) -> Run:
    """Not a contestant but a lower bound: the matrix products alone, by nnaccel's library."""
    from nnaccel.devices.device import select
    from nnaccel.training.benchmark import products

    bare = products(problem.shape, select(device), **_options(precision))

    def run(epochs: int) -> float:
        bare(epochs * len(problem.order))
        return float("nan")

    return run


def ours(problem: Problem, device: str, precision: str | None = None) -> Run:
    """nnaccel in one of the precisions."""
    return nnaccel_on(device, **_options(precision))(problem)


def ours_eager(problem: Problem, device: str, precision: str | None = None) -> Run:
    """nnaccel without CUDA graphs."""
    without_graphs = partial(CuPyBackend, graphs=False)
    return nnaccel_on(device, backend=without_graphs, **_options(precision))(problem)


def _options(precision: str | None) -> dict[str, Any]:
    return {} if precision is None else PRECISIONS[precision].nnaccel


def nnaccel_on(
    device: str, precision: str = "float32", *, backend: Callable[[Any], Any] = backend_of
) -> Callable[[Problem], Run]:
    """nnaccel's own training epoch, as `nnaccel.train` runs it.   backend: of a namespace."""

    def build(problem: Problem) -> Run:
        from nnaccel.devices.device import select
        from nnaccel.training.benchmark import Trainer

        # The flat vector: all W first and then all b.
        params = np.concatenate([p.ravel() for p in (*problem.weights, *problem.biases)])
        where = select(device)
        trainer = Trainer(
            problem.shape,
            problem.X,
            problem.Y,
            where,
            params=params,
            backend=backend(where.xp),
            precision=precision,
        )
        order = trainer.device.asarray(problem.order.reshape(-1))

        def run(epochs: int) -> float:
            losses = np.empty(0)
            for _ in range(epochs):
                losses = trainer.epoch(order)
            return float(losses.mean())

        return run

    return build


def scikit_learn(problem: Problem) -> Run:
    """MLPClassifier, which draws its own order. A call of `fit` continues with the last weights and
    new moments of Adam."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore", ConvergenceWarning)
    model = MLPClassifier(
        problem.shape.sizes[1:-1],
        batch_size=problem.shape.batch,
        learning_rate_init=LEARNING_RATE,
        alpha=0.0,
        tol=0.0,
        n_iter_no_change=10**9,
        max_iter=1,
        warm_start=True,
        random_state=0,
    )
    one_each = np.unique(problem.Y, return_index=True)[1]
    model.set_params(batch_size=len(one_each)).fit(problem.X[one_each], problem.Y[one_each])
    model.set_params(batch_size=problem.shape.batch)
    model.coefs_ = [W.copy() for W in problem.weights]
    model.intercepts_ = [b.copy() for b in problem.biases]

    def run(epochs: int) -> float:
        model.set_params(max_iter=epochs).fit(problem.X, problem.Y)
        return float(model.loss_)

    return run


OWN_ORDER = ("scikit-learn",)  # its losses cannot be compared, since it shuffles itself

CONTESTANTS: dict[str, Callable[[Problem], Run]] = {
    "products": products,
    "nnaccel": nnaccel_on("cpu", backend=partial(backend_of, kernels="numpy")),
    "nnaccel[fast]": nnaccel_on("cpu"),
    "nnaccel jax": nnaccel_on("jax:cpu"),
    "nnaccel torch": nnaccel_on("torch:cpu"),
    "torch eager": torch_eager,
    "torch compiled": torch_compiled,
    "jax jit": jax_jit,
    "jax scan": jax_scan,
    "scikit-learn": scikit_learn,
}

# On a device and in a precision.
GPU_CONTESTANTS: dict[str, Callable[[Problem, str, str], Run]] = {
    "products": products,
    "nnaccel": ours,
    "nnaccel eager": ours_eager,
    "torch eager": torch_eager,
    "torch compiled": torch_compiled,
    "torch graphs": torch_graphs,
    "jax jit": jax_jit,
    "jax scan": jax_scan,
}
