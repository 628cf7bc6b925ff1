"""nnaccel beside its peers from arrays to a trained classifier, each in a process of its own.

    python bench/peers/fits.py                     # generated data of MNIST's size
    python bench/peers/fits.py --data FILE.npz     # with X_train, y_train, X_test, y_test
    python bench/peers/fits.py --dtype float64 --rows 2000 --inputs 20 --hidden 100 --epochs 50

All train the same network on the same rows: Adam, mean cross-entropy, relu, one dtype, no penalty,
a new order in every epoch. They take turns, one fit each, round by round. A time is that of a fit
in a process that has already done one: what is loaded or compiled once is in the column "first",
imports are in neither. Who comes to another test accuracy than the others is not shown.
"""

import argparse
import importlib
import itertools
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.peers.contestants import jax_adam, jax_logits
from bench.shared.measures import Entry, best, busy, judge, markdown, median, ratio_to
from bench.shared.report import FLOOR, LIBRARIES, OURS, about, chart, heading, load, write
from bench.shared.rounds import Worker, answer, arguments, say, take_turns, timed
from bench.shared.script import run
from bench.shared.shapes import LEARNING_RATE, Shape

TOLERANCE = 0.015  # relative, of accuracies: each draws its own weights and orders
LEGEND = (
    "Seconds a fit: the best and the median of the rounds, and the first one in its process.\n"
    "Ratios: time of the row over time of nnaccel in the same round, median and quartiles;\n"
    "above 1, nnaccel is faster. Accuracy: on the test rows, mean of all fits.\n"
)
NAMES = ("X_train", "y_train", "X_test", "y_test")
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
    """Not a contestant but the floor under them: NumPy's matrix products of all steps, alone."""
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
    """PyTorch with what makes it quick: rows picked by index, the fused Adam."""
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
    """PyTorch as its tutorials write it: a DataLoader, and the sum of the losses on the host."""
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
    """The plain MLP of pytabkit, without its encoding. It insists on rows for validation: 1 %."""
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


def main() -> None:
    parser = arguments(__doc__ or "", CONTESTANTS, rounds=7)
    parser.add_argument("--data", type=Path, help="an .npz file; default: generated data")
    parser.add_argument("--rows", type=int, default=60_000, help="of the generated data")
    parser.add_argument("--inputs", type=int, default=784, help="of the generated data")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--hidden", type=int, nargs="*", default=[100, 100])
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    if args.worker:
        work(args.worker[0], args.worker[1], args)
        return
    stop = time.monotonic() + 60 * args.minutes
    libraries = (*LIBRARIES, "skorch", "keras", "pytabkit")
    found = about(args.threads, libraries) | {"dtype": args.dtype, "load": load()}
    print(opening(found), flush=True)
    arrays = read(args.data) if args.data else generated(args.rows, args.inputs)
    arrays = [x.astype(args.dtype) if x.dtype == np.float32 else x for x in arrays]
    shape = Task(arrays[0], arrays[1], tuple(args.hidden), args.batch, args.epochs).shape
    name = f"{args.data.stem if args.data else 'generated data'}, {len(arrays[0]):,} rows, "
    name += shape.name.replace("x", ", batch ") + f", {args.epochs} epochs, {args.dtype}"
    with tempfile.TemporaryDirectory() as folder:
        for array_name, array in zip(NAMES, arrays, strict=True):
            np.save(Path(folder) / f"{array_name}.npy", array)
        result = compare(folder, args, shape, len(arrays[0]), stop)
    found["problems"] = {name: result}
    print(section(name, result), flush=True)
    path = write(found, "fits", table(found), args.output)
    chart(found, "s a fit: best round (median)", "From arrays to a classifier", path)


def generated(rows: int, inputs: int) -> list[np.ndarray]:
    """Ten classes that overlap a little: so many rows to train on, and 10,000 for the test."""
    rng = np.random.default_rng(0)
    spread = np.float32(0.13 * (784 / inputs) ** 0.5)  # of as many inputs as MNIST has, 0.13
    centres = spread * rng.standard_normal((10, inputs), dtype=np.float32)
    arrays = []
    for N in (rows, 10_000):
        y = rng.integers(10, size=N)
        X = rng.standard_normal((N, inputs), dtype=np.float32)
        X += centres[y]
        arrays += [X, y]
    return arrays


def read(path: Path) -> list[np.ndarray]:
    """X as float32, bytes as 0 to 1; y as int64, of classes from 0."""
    with np.load(path) as file:
        X, y, X_test, y_test = (file[name] for name in NAMES)
    scale = np.float32(255 if X.dtype == np.uint8 else 1)
    rows = [X.astype(np.float32) / scale, y.astype(np.int64)]
    return [*rows, X_test.astype(np.float32) / scale, y_test.astype(np.int64)]


def work(name: str, folder: str, args: argparse.Namespace) -> None:
    """A worker answers any number with the seconds of a fit and its accuracy on the test rows."""
    # Mapped, so that the processes share the memory; "c" lets libraries that insist write to it.
    X, y, X_test, y_test = (np.load(Path(folder) / f"{n}.npy", mmap_mode="c") for n in NAMES)
    X, X_test = np.asarray(X), np.asarray(X_test)
    fit = CONTESTANTS[name](Task(X, np.asarray(y), tuple(args.hidden), args.batch, args.epochs))

    def once(_: int) -> tuple[float, float]:
        seconds, predict = timed(fit)
        return seconds, float(np.mean(predict(X_test) == y_test))

    answer(once)


def compare(
    folder: str, args: argparse.Namespace, shape: Shape, N: int, stop: float
) -> dict[str, Any]:
    """Seconds of a fit of each contestant in each round, and the mean of the test accuracies."""
    workers, found, turns = [], {}, {}
    options = ["--hidden", *args.hidden, "--batch", args.batch, "--epochs", args.epochs]
    for name in args.contestants:
        worker = Worker([name, folder, *options], args.threads)
        workers.append(worker)
        try:
            first, accuracy = worker.ask(0)
        except RuntimeError as error:
            found[name] = {"problem": str(error)}
            say(f"  {name}: {error}")
            continue
        say(f"  {name}: first fit {first:.3g} s, accuracy {accuracy:.4f}")
        found[name] = {"first": first, "accuracies": [accuracy], "accuracy": accuracy}

        def turn(worker: Worker = worker, entry: Entry = found[name]) -> float:
            seconds, accuracy = worker.ask(0)
            entry["accuracies"].append(accuracy)
            entry["accuracy"] = float(np.mean(entry["accuracies"]))
            return seconds

        turns[name] = turn
    judge(found, "accuracy", TOLERANCE, leave=[FLOOR])
    take_turns(found, turns, args, stop=stop)
    for key in ("accuracy", "accuracies"):
        found.get(FLOOR, {}).pop(key, None)  # it predicts nothing
    for worker in workers:
        worker.close()
    gflop = shape.flops * args.epochs * N / shape.batch / 1e9
    return {"gflop": gflop, "contestants": found}


def table(found: dict[str, Any]) -> str:
    """The results in Markdown: times, accuracy, ratios to ours."""
    sections = (section(name, result) for name, result in found["problems"].items())
    return "\n".join([opening(found), *sections])


def opening(found: dict[str, Any]) -> str:
    """Where the numbers come from, and how to read them."""
    return "\n".join([heading(found), *filter(None, [found.get("load")]), LEGEND])


def section(name: str, result: dict[str, Any]) -> str:
    """The table of one task."""
    entries = result["contestants"]
    columns = {
        "best s": best,
        "median s": median,
        "first s": lambda entry: f"{entry['first']:.4g}",
        "accuracy": lambda entry: f"{entry['accuracy']:.4f}" if "accuracy" in entry else "",
    }
    for our in OURS[:2]:
        if entries.get(our, {}).get("times"):
            columns[f"to {our}"] = ratio_to(entries[our])
    note = busy(entry["times"] for entry in entries.values() if entry.get("times"))
    return f"### {name}\n\n{markdown(entries, columns)}" + (f"\n{note}\n" if note else "")


if __name__ == "__main__":
    run(main)
