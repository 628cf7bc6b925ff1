"""Measures how fast this machine trains: four networks on each device, compared with bare products.

    for row in run(["cpu", "cuda"], seconds=30):
        print(row)

Each network is trained as by `nnaccel.training.loop.train`, in float32, with Adam on the mean
cross-entropy of random data. Every step needs its matrix products, so the time of a step divided by
theirs shows the cost of everything else.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.available import available
from nnaccel.devices.device import Device, select, to_host
from nnaccel.kernels.backend import Backend, backend_of
from nnaccel.kernels.definition import Run
from nnaccel.maths import losses, optimizers
from nnaccel.maths.network import Network, mlp
from nnaccel.training.data import put
from nnaccel.training.device_errors import explain_device_errors
from nnaccel.training.step import compile_run, initialize
from nnaccel.typing import Array


class Shape(NamedTuple):
    """A network by the sizes of its layers, and the size of its minibatch."""

    sizes: tuple[int, ...]
    batch: int

    @property
    def name(self) -> str:
        """The name, such as "784-512-512-10x256"."""
        return f"{'-'.join(map(str, self.sizes))}x{self.batch}"

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """(rows, inner, columns) of the matrix products of a step: A W, X^T dZ and dZ W^T."""
        layers = list(pairwise(self.sizes))
        forward = [(self.batch, D, H) for D, H in layers]
        dW = [(D, self.batch, H) for D, H in layers]
        dX = [(self.batch, H, D) for D, H in layers[1:]]
        return forward + dW + dX

    @property
    def flops(self) -> int:
        """The number of floating-point operations of these products."""
        return sum(2 * n * m * k for n, m, k in self.products)

    @property
    def steps(self) -> int:
        """Steps per epoch: enough to hide the cost of its start, few enough for small data."""
        return int(np.clip(5e8 / self.flops, 8, 1024))

    @property
    def steps_on_gpu(self) -> int:
        """Steps per epoch on a GPU: many, so that the 0.2 ms of the host's work per epoch do not
        count."""
        return max(self.steps, 128 if self.flops < 1e12 else 32)

    @property
    def network(self) -> Network:
        D, *hidden, K = self.sizes
        return mlp(D, hidden, K)

    @property
    def loss(self) -> str:
        """The loss: binary cross-entropy for one output, softmax cross-entropy for more."""
        return "softmax_cross_entropy" if self.sizes[-1] > 1 else "binary_cross_entropy"


SHAPES = (
    Shape((2, 4, 2), 400),
    Shape((64, 100, 10), 200),
    Shape((784, 512, 512, 10), 256),
    Shape((1024, 2048, 2048, 100), 1024),
)


class Row(NamedTuple):
    """One network on one device. If it does not run, `problem` says why, and times are 0."""

    device: str
    shape: str
    step_ms: float = 0.0  # milliseconds a step, in the best of several epochs
    products_ms: float = 0.0  # likewise for the matrix products of a step alone
    gflops: float = 0.0  # 1e9 operations of these products a second of training
    samples_per_second: float = 0.0
    share: float = 0.0  # products_ms / step_ms: 1 if everything else costs nothing
    problem: str = ""
    kernels: str = ""  # a description of the kernels that ran; "" if unknown


def run(devices: Sequence[str] | None = None, *, seconds: float = 40.0) -> Iterator[Row]:
    """Time the four networks on each device within `seconds`, and yield each row when it is ready.

    devices: names for `devices.select`; None: all devices of this machine whose library is NumPy or
    CuPy, for which nnaccel has its own kernels.
    seconds: for all rows, loading and warming up included. Each row has an equal share of the
    remaining time, and takes longer only if its first calls do, as when Numba compiles. A named
    device that does not exist raises the error of `select` at once.
    """
    if devices is None:
        found = [device.name for device in available() if not device.problem]
        devices = [name for name in found if name.startswith(("cpu", "cuda"))]
    pairs = [(device, shape) for device in map(select, devices) for shape in SHAPES]
    return _rows(pairs, time.perf_counter() + seconds)


def _rows(pairs: Sequence[tuple[Device, Shape]], stop: float) -> Iterator[Row]:
    for done, (device, shape) in enumerate(pairs):
        yield measure(shape, device, (stop - time.perf_counter()) / (len(pairs) - done))


def measure(shape: Shape, device: Device, seconds: float) -> Row:
    """Times one network on one device within a number of seconds."""
    stop = time.perf_counter() + seconds
    try:
        X, Y, order = examples(shape)
        # On a CPU a step of the largest network takes a tenth of a second.
        few = min(shape.steps, max(2, int(2e10 / shape.flops)))
        on_gpu = any(word in device.name for word in ("cuda", "gpu"))
        steps = shape.steps_on_gpu if on_gpu else few
        order = np.resize(order, steps * shape.batch)
        with explain_device_errors(device, shape.network, "float32"), device.context():
            trainer = Trainer(shape, X, Y, device)
            bare = products(shape, device)
            # In turns, so that a machine that slows down slows both.
            left = stop - time.perf_counter()
            trained, floor = interleaved(
                lambda: trainer.epoch(order), lambda: bare(steps), seconds=left
            )
    except MemoryError as error:
        return Row(device.name, shape.name, problem=str(error) or "not enough memory")
    step, floor = trained / steps, floor / steps
    return Row(
        device.name,
        shape.name,
        1e3 * step,
        1e3 * floor,
        shape.flops / step / 1e9,
        shape.batch / step,
        floor / step,
        kernels=trainer.kernels,
    )


def interleaved(*functions: Callable[[], Any], seconds: float) -> list[float]:
    """The best time of each function, in seconds. The functions are called in turn for `seconds`.

    The first calls count towards `seconds`. Each function is called at least twice."""
    stop = time.perf_counter() + seconds
    for function in functions:
        function()
    best = [float("inf")] * len(functions)
    while True:
        begun = time.perf_counter()
        for i, function in enumerate(functions):
            started = time.perf_counter()
            function()
            best[i] = min(best[i], time.perf_counter() - started)
        now = time.perf_counter()
        if now + (now - begun) > stop:  # another round would not fit
            return best


def significant(value: float, digits: int = 3) -> str:
    """A number in three digits, without an exponent: "0.0147", "4.63", "187", "1,230,000"."""
    if not value or not math.isfinite(value):
        return f"{value:g}"

    def decimals(x: float) -> int:
        return digits - 1 - math.floor(math.log10(abs(x)))

    value = round(value, decimals(value))  # rounding may add a digit before the point
    return f"{value:,.{max(decimals(value), 0)}f}"


def examples(shape: Shape, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian X (N, D), classes Y (N,) by a random linear map, and an order (N,)."""
    rng = np.random.default_rng(seed)
    N, D, K = shape.batch * shape.steps, shape.sizes[0], shape.sizes[-1]
    X = rng.standard_normal((N, D), dtype=np.float32)
    Z = X @ rng.standard_normal((D, K), dtype=np.float32)
    Y = np.argmax(Z, axis=1) if K > 1 else (Z[:, 0] > 0).astype(np.int64)
    return X, Y, rng.permutation(N)


class Trainer:
    """The compiled epoch of `nnaccel.training.loop.train`, without the work between epochs."""

    def __init__(
        self,
        shape: Shape,
        X: Any,
        Y: Any,
        device: Device,
        *,
        params: np.ndarray | None = None,
        backend: Backend | None = None,
        precision: str = "float32",
    ) -> None:
        network, batch_size = shape.network, shape.batch
        loss, optimizer = losses.get(shape.loss), optimizers.get("adam", 1e-3)
        self.device = device
        self.data = put(network, loss, device, "float32", device.asarray(X), Y)
        start = initialize(network) if params is None else params
        start = device.asarray(start, "float32", copy=True)
        self._backend = backend or backend_of(device.xp)
        self.run = Run(network, loss, optimizer, batch_size, start.dtype, precision=precision)
        compiled = compile_run(self._backend, self.run)
        state = optimizer.init(start, xp=device.xp)
        self.params, self.state = map(compiled.split_params, (start, state))
        self._epoch = compiled.epoch_of(0)
        self.kernels = self._backend.explain(self.run)

    def epoch(self, order: Array) -> np.ndarray:
        """Trains for an epoch in that order. Returns the loss of each step, on the host."""
        return to_host(self.launch(order))

    def launch(self, order: Array) -> Array:
        """Like `epoch`, but does not wait for the device. The losses stay there."""
        run = self.run
        context = self._backend.context(run.network, run.batch_size, run.precision)
        with context, np.errstate(all="ignore"):
            self.params, self.state, records = self._epoch(
                self.params, self.state, self.data, self.device.asarray(order)
            )
        return records


def products(shape: Shape, device: Device, precision: str = "float32") -> Callable[[int], None]:
    """A function that computes the bare matrix products of an epoch, on as many threads as
    training, each written into existing memory if possible. precision: on CuPy, whose kernels have
    it; float32 on other libraries."""
    backend, xp = backend_of(device.xp), device.xp
    multiply, given, loop = backend.bare_product(precision)
    A = [device.asarray(np.ones((shape.batch, size), np.float32)) for size in shape.sizes]
    W = [device.asarray(np.ones((D, H), np.float32) / D) for D, H in pairwise(shape.sizes)]
    A, W = [given(x) for x in A], [given(x) for x in W]
    pairs = [(A[i], W[i]) for i in range(len(W))]
    pairs += [(xp.matrix_transpose(A[i]), A[i + 1]) for i in reversed(range(len(W)))]
    pairs += [(A[i + 1], xp.matrix_transpose(W[i])) for i in reversed(range(1, len(W)))]
    shapes = [(left.shape[0], right.shape[1]) for left, right in pairs]
    outs = [device.asarray(np.empty(size, np.float32)) for size in shapes]

    def step() -> Array:
        found = [multiply(x, y, out) for (x, y), out in zip(pairs, outs, strict=True)]
        return found[-1]

    run = loop(step)

    def bare(steps: int) -> None:
        with backend.context(shape.network, shape.batch):
            result = run(steps)
        device.synchronize(result)

    return bare
