"""Who is compared: each trains the same network on the same minibatches, as its users write it.

A contestant is a function from a `Problem` to `run(epochs) -> mean loss of the last epoch`. An
epoch goes through `problem.order`, picks the rows of each minibatch from the data set, takes an
Adam step on the mean softmax cross-entropy with class numbers, or with one output on the binary
one of its sigmoid, float32, relu, and keeps the loss of each step on the device. A contestant
imports its library itself: it is meant to be alone in its process, since two BLAS thread pools in
one distort each other by up to ten times.

Those that also run on a GPU take a device, "cpu" or "cuda", and a name of `PRECISIONS`; None
leaves the precision to the library.
"""

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.shared.precisions import PRECISIONS, jax_device, jax_precision, torch_precision
from bench.shared.shapes import LEARNING_RATE, Problem
from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.cuda.backend import CuPyBackend

Run = Callable[[int], float]


def products(problem: Problem, device: str = "cpu", precision: str | None = None) -> Run:
    """Not a contestant but the floor under them: nnaccel's library, matrix products alone."""
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
    """The same without CUDA graphs."""
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


def torch_eager(problem: Problem, device: str = "cpu", precision: str | None = None) -> Run:
    """PyTorch as its tutorials write it, with the fused Adam."""
    return _torch(problem, device, precision, compiled=False)


def torch_compiled(problem: Problem, device: str = "cpu", precision: str | None = None) -> Run:
    """The same model under `torch.compile`."""
    return _torch(problem, device, precision, compiled=True)


def _torch(problem: Problem, device: str, precision: str | None, *, compiled: bool) -> Run:
    import torch

    X, Y, order, loss_of, optimizer = _torch_parts(problem, device, precision)
    if compiled:
        # Else the shapes of a second problem would be taken for dynamic ones.
        torch.compiler.reset()
        loss_of = torch.compile(loss_of)

    def run(epochs: int) -> float:
        losses: list[Any] = []
        for _ in range(epochs):
            losses = []
            for index in order:
                loss = loss_of(X[index], Y[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        if device == "cuda":
            torch.cuda.synchronize()
        return mean

    return run


def torch_graphs(problem: Problem, device: str = "cuda", precision: str | None = None) -> Run:
    """A whole step of PyTorch in a CUDA graph: one launch a step and nothing else.

    The number of the step is in the graph too, so that no batch has to be copied into place. On
    the CPU, where there are no graphs, the same step is called.
    """
    import torch

    on_gpu = device == "cuda"
    X, Y, order, loss_of, optimizer = _torch_parts(problem, device, precision, capturable=on_gpu)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    start = [p.detach().clone() for p in params]
    number = torch.zeros(1, dtype=torch.int64, device=device)
    losses = torch.zeros(len(order), device=device)

    def step() -> None:
        index = order.index_select(0, number)[0]
        loss = loss_of(X.index_select(0, index), Y.index_select(0, index))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.index_copy_(0, number, loss.detach().float().view(1))
        number.add_(1)

    def restart() -> None:
        """Undoes what the first steps have learned, in the memory that the graph knows."""
        with torch.no_grad():
            for p, value in zip(params, start, strict=True):
                p.copy_(value)
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def captured() -> Callable[[], None]:
        # As PyTorch's notes on CUDA graphs ask: a few steps on another stream, then the capture.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
                number.zero_()
        torch.cuda.current_stream().wait_stream(stream)
        optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        restart()
        return graph.replay

    replay = captured() if on_gpu else step

    def run(epochs: int) -> float:
        for _ in range(epochs):
            number.zero_()
            for _ in range(len(order)):
                replay()
        return float(losses.mean())

    return run


def _torch_parts(
    problem: Problem, device: str, precision: str | None, **adam: Any
) -> tuple[Any, Any, Any, Callable[..., Any], Any]:
    """(X, Y, order, loss of a batch, optimizer), on the device."""
    import torch

    sizes = problem.shape.sizes
    modules: list[Any] = []
    for i, (D, H) in enumerate(itertools.pairwise(sizes)):
        modules += [torch.nn.ReLU()] if i else []
        linear = torch.nn.Linear(D, H)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(problem.weights[i].T))
            linear.bias.copy_(torch.from_numpy(problem.biases[i]))
        modules.append(linear)
    model = torch.nn.Sequential(*modules).to(device)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True, **adam)
    X, Y, order = (
        torch.from_numpy(array).to(device) for array in (problem.X, problem.Y, problem.order)
    )
    criterion = torch.nn.functional.cross_entropy
    if problem.shape.loss == "binary_cross_entropy":
        criterion, Y = torch.nn.functional.binary_cross_entropy_with_logits, Y[:, None].float()
    bfloat16 = torch_precision(precision)

    def loss_of(x: Any, y: Any) -> Any:
        if not bfloat16:
            return criterion(model(x), y)
        # A captured graph cannot have the cache of casts, and each weight is cast once in a step.
        with torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False):
            return criterion(model(x), y)

    return X, Y, order, loss_of, optimizer


def jax_jit(problem: Problem, device: str = "cpu", precision: str | None = None) -> Run:
    """JAX with a hand-written Adam, one jitted step a call, its memory donated."""
    return _jax(problem, device, precision, scan=False)


def jax_scan(problem: Problem, device: str = "cpu", precision: str | None = None) -> Run:
    """The same step, an epoch in one call by `lax.scan`."""
    return _jax(problem, device, precision, scan=True)


def _jax(problem: Problem, device: str, precision: str | None, *, scan: bool) -> Run:
    import jax
    import jax.numpy as jnp

    def put(array: np.ndarray) -> Any:
        return jax.device_put(array, jax_device(device))

    start, step = jax_adam(jax_precision(precision))
    state = start(list(map(put, problem.weights)), list(map(put, problem.biases)))
    X, Y, order = map(put, (problem.X, problem.Y, problem.order))

    def epoch(state: Any, X: Any, Y: Any, order: Any) -> Any:
        return jax.lax.scan(lambda state, index: step(state, X, Y, index), state, order)

    compiled = jax.jit(epoch if scan else step, donate_argnums=0)
    indices = list(order)

    def run(epochs: int) -> float:
        nonlocal state
        losses: Any = []
        for _ in range(epochs):
            if scan:
                state, losses = compiled(state, X, Y, order)
            else:
                losses = []
                for index in indices:
                    state, loss = compiled(state, X, Y, index)
                    losses.append(loss)
                losses = jnp.stack(losses)
            losses.block_until_ready()
        jax.block_until_ready(state)
        return float(jnp.mean(losses))

    return run


def jax_adam(dtype: Any = None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """start(weights, biases) -> state and step(state, X, Y, index) -> (state, loss), by hand.

    dtype: of the layers, as of `jax_logits`."""
    import jax
    import jax.numpy as jnp

    def start(weights: list[np.ndarray], biases: list[np.ndarray]) -> Any:
        tree = jax.tree.map(jnp.asarray, list(zip(weights, biases, strict=True)))
        zeros = jax.tree.map(jnp.zeros_like, tree)
        return tree, zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros((), jnp.int32)

    def loss_of(tree: Any, x: Any, y: Any) -> Any:
        logits = jax_logits(tree, x, dtype)
        if logits.shape[1] == 1:
            return jnp.mean(jax.nn.softplus(logits[:, 0]) - y * logits[:, 0])
        log_probabilities = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(log_probabilities, y[:, None], axis=1))

    def step(state: Any, X: Any, Y: Any, index: Any) -> Any:
        tree, mu, nu, t = state
        loss, grads = jax.value_and_grad(loss_of)(tree, X[index], Y[index])
        t = t + 1
        mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mu, grads)
        nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, nu, grads)
        c1, c2 = 1 - 0.9**t, 1 - 0.999**t
        tree = jax.tree.map(
            lambda p, m, v: p - LEARNING_RATE * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), tree, mu, nu
        )
        return (tree, mu, nu, t), loss

    return start, step


def jax_logits(tree: Any, x: Any, dtype: Any = None) -> Any:
    """The logits; dtype: to which inputs and weights are cast, None: computed as they are."""
    import jax

    if dtype is not None:
        tree, x = jax.tree.map(lambda p: p.astype(dtype), (tree, x))
    for W, b in tree[:-1]:
        x = jax.nn.relu(x @ W + b)
    W, b = tree[-1]
    logits = x @ W + b
    return logits if dtype is None else logits.astype("float32")


def scikit_learn(problem: Problem) -> Run:
    """MLPClassifier; it draws its own order. A call of `fit` goes on from the last one's weights,
    with new moments for Adam."""
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


OWN_ORDER = ("scikit-learn",)  # whose losses cannot be compared, since it shuffles by itself

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
