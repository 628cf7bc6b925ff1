"""The contestants of whole fits: each trains from arrays to predictions, in the way of its users.

A contestant is a function from a `Task` to `fit() -> predict`. It imports its library itself and
runs alone in its process.
"""

import importlib
import itertools
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.peers.with_jax import jax_adam, jax_logits
from bench.shared.shapes import LEARNING_RATE, Shape

Predict = Callable[[np.ndarray], np.ndarray]


class Task(NamedTuple):
    X: np.ndarray  # (N, D) float32 or float64
    y: np.ndarray  # (N,) int64 classes
    hidden: tuple[int, ...]
    batch: int
    epochs: int

    @property
    def shape(self) -> Shape:
        return Shape((self.X.shape[1], *self.hidden, int(self.y.max()) + 1), self.batch)


def products(task: Task) -> Callable[[], Predict]:
    """Not a contestant but a lower bound: NumPy's matrix products of all steps alone."""
    from nnaccel.devices.device import select
    from nnaccel.training.benchmark import products

    if task.X.dtype != np.float32:
        raise RuntimeError("measured in float32 alone")
    bare = products(task.shape, select("cpu"))

    def fit() -> Predict:
        bare(task.epochs * len(task.X) // task.batch)
        return lambda X: np.zeros(len(X), np.int64)

    return fit


def estimator(module: str, *, numba: bool = True) -> Callable[[Task], Callable[[], Predict]]:
    """The MLPClassifier of scikit-learn or nnaccel."""

    def build(task: Task) -> Callable[[], Predict]:
        from sklearn.exceptions import ConvergenceWarning

        warnings.simplefilter("ignore", ConvergenceWarning)
        if not numba:
            sys.modules["numba"] = None  # pyright: ignore[reportArgumentType]: as if not installed
        MLPClassifier = importlib.import_module(module).MLPClassifier
        seeds = itertools.count()

        def fit() -> Predict:
            model = MLPClassifier(
                task.hidden,
                batch_size=task.batch,
                learning_rate_init=LEARNING_RATE,
                alpha=0.0,
                max_iter=task.epochs,
                tol=0.0,
                n_iter_no_change=task.epochs + 1,
                random_state=next(seeds),
            )
            return model.fit(task.X, task.y).predict

        return fit

    return build


def torch_modules(task: Task) -> Any:
    import torch

    modules: list[Any] = []
    for D, H in itertools.pairwise(task.shape.sizes):
        modules += [torch.nn.Linear(D, H), torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1]).to(getattr(torch, task.X.dtype.name))


def torch_loop(task: Task) -> Callable[[], Predict]:
    """A fast loop in PyTorch: rows selected by index, and the fused Adam."""
    import torch

    def fit() -> Predict:
        X, y, model = torch.from_numpy(task.X), torch.from_numpy(task.y), torch_modules(task)
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
        for _ in range(task.epochs):
            for index in torch.randperm(len(X)).split(task.batch):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(X[index]), y[index]).backward()
                optimizer.step()
        return predictor(model)

    return fit


def torch_loader(task: Task) -> Callable[[], Predict]:
    """The loop of PyTorch's tutorials: a DataLoader, and the sum of the losses on the host."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    def fit() -> Predict:
        rows = TensorDataset(torch.from_numpy(task.X), torch.from_numpy(task.y))
        model = torch_modules(task)
        optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
        loss_fn = torch.nn.CrossEntropyLoss()
        for _ in range(task.epochs):
            total = 0.0
            for x, y in DataLoader(rows, batch_size=task.batch, shuffle=True):
                optimizer.zero_grad()
                loss = loss_fn(model(x), y)
                loss.backward()
                optimizer.step()
                total += loss.item()
        return predictor(model)

    return fit


def predictor(model: Any) -> Predict:
    import torch

    def predict(X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(X)).argmax(dim=1).numpy()

    return predict


def skorch(task: Task) -> Callable[[], Predict]:
    import torch
    from skorch import NeuralNetClassifier

    def fit() -> Predict:
        model = NeuralNetClassifier(
            torch_modules(task),
            criterion=torch.nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=LEARNING_RATE,
            batch_size=task.batch,
            max_epochs=task.epochs,
            iterator_train__shuffle=True,
            train_split=None,
            verbose=0,
        )
        return model.fit(task.X, task.y).predict

    return fit


def keras_on(backend: str) -> Callable[[Task], Callable[[], Predict]]:
    def build(task: Task) -> Callable[[], Predict]:
        os.environ["KERAS_BACKEND"] = backend  # read when Keras is imported
        import keras

        keras.config.set_floatx(task.X.dtype.name)
        D, *hidden, K = task.shape.sizes

        def fit() -> Predict:
            layers = [keras.layers.Dense(H, activation="relu") for H in hidden]
            model = keras.Sequential([keras.Input((D,)), *layers, keras.layers.Dense(K)])
            model.compile(
                optimizer=keras.optimizers.Adam(LEARNING_RATE),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
            model.fit(task.X, task.y, batch_size=task.batch, epochs=task.epochs, verbose=0)
            return lambda X: model.predict(X, batch_size=1000, verbose=0).argmax(axis=1)

        return fit

    return build


def pytabkit(task: Task) -> Callable[[], Predict]:
    """The plain MLP of pytabkit, without its encoding. It requires validation rows: 1 %."""
    from pytabkit import MLP_RTDL_D_Classifier

    first, *middle, last = task.hidden if len(task.hidden) > 1 else (0, 1, 2, 0)
    if len(set(middle)) > 1:
        raise RuntimeError("has two hidden layers or more, those in the middle of one width")
    if task.X.dtype != np.float32:
        raise RuntimeError("computes in float32 alone")
    seeds = itertools.count()

    def fit() -> Predict:
        model = MLP_RTDL_D_Classifier(
            module_n_layers=len(middle),
            module_d_first_layer=first,
            module_d_layers=middle[0] if middle else first,
            module_d_last_layer=last,
            module_dropout=0.0,
            batch_size=task.batch,
            max_epochs=task.epochs,
            es_patience=task.epochs + 1,
            lr=LEARNING_RATE,
            lr_scheduler=False,
            optimizer="adamw",
            optimizer_weight_decay=0.0,
            use_checkpoints=False,
            tfms=[],
            val_fraction=0.01,
            device="cpu",
            n_threads=torch_threads(),
            random_state=next(seeds),
        )
        return model.fit(task.X, task.y).predict

    return fit


def torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def jax_scan(task: Task) -> Callable[[], Predict]:
    """JAX by hand, an epoch in one call by `lax.scan`, which leaves out a last, shorter batch."""
    import jax
    import jax.numpy as jnp

    dtype = task.X.dtype
    jax.config.update("jax_enable_x64", dtype == np.float64)
    start, step = jax_adam()
    seeds = itertools.count()

    @jax.jit
    def epoch(state: Any, X: Any, Y: Any, key: Any) -> Any:
        steps = len(X) // task.batch
        order = jax.random.permutation(key, len(X))[: steps * task.batch]
        order = order.reshape(steps, task.batch)
        return jax.lax.scan(lambda state, index: step(state, X, Y, index), state, order)

    def fit() -> Predict:
        rng, keys = np.random.default_rng(seed := next(seeds)), jax.random.key(seed)
        pairs = list(itertools.pairwise(task.shape.sizes))
        weights = [(rng.standard_normal((D, H)) * (2 / D) ** 0.5).astype(dtype) for D, H in pairs]
        state = start(weights, [np.zeros(H, dtype) for _, H in pairs])
        X, Y = jnp.asarray(task.X), jnp.asarray(task.y)
        for key in jax.random.split(keys, task.epochs):
            state, losses = epoch(state, X, Y, key)
            losses.block_until_ready()
        return lambda X: np.asarray(jax_logits(state[0], X).argmax(axis=1))

    return fit


CONTESTANTS: dict[str, Callable[[Task], Callable[[], Predict]]] = {
    "products": products,
    "nnaccel": estimator("nnaccel", numba=False),
    "nnaccel[fast]": estimator("nnaccel"),
    "scikit-learn": estimator("sklearn.neural_network"),
    "torch loop": torch_loop,
    "torch DataLoader": torch_loader,
    "skorch": skorch,
    "keras torch": keras_on("torch"),
    "keras jax": keras_on("jax"),
    "pytabkit MLP": pytabkit,
    "jax scan": jax_scan,
}
