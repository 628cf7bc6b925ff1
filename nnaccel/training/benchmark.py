"""How fast this machine trains: four networks on each of its devices, beside the bare products.

    rows = run(["cpu", "cuda"], seconds=30)

Each network is trained with Adam on the mean cross-entropy of random data, float32, as
`nnaccel.training.loop.train` does it. What a step cannot do without is its matrix products; their
share of the step says what all the rest costs.
"""

import time
from collections.abc import Callable, Sequence
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
    """A network by the sizes of its layers, and the minibatch that it is trained with."""

    sizes: tuple[int, ...]
    batch: int

    @property
    def name(self) -> str:
        """Such as "784-512-512-10x256"."""
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
        """Floating-point operations of these products."""
        return sum(2 * n * m * k for n, m, k in self.products)

    @property
    def steps(self) -> int:
        """Of an epoch: enough to forget where one begins, few enough for the data to stay small."""
        return int(np.clip(5e8 / self.flops, 8, 1024))

    @property
    def network(self) -> Network:
        D, *hidden, K = self.sizes
        return mlp(D, hidden, K)

    @property
    def loss(self) -> str:
        """One output is the logit of the second of two classes."""
        return "softmax_cross_entropy" if self.sizes[-1] > 1 else "binary_cross_entropy"


SHAPES = (
    Shape((2, 4, 2), 400),
    Shape((64, 100, 10), 200),
    Shape((784, 512, 512, 10), 256),
    Shape((1024, 2048, 2048, 100), 1024),
)


class Row(NamedTuple):
    """One network on one device; where it does not run, `problem` says why, and times are 0."""

    device: str
    shape: str
    step_ms: float = 0.0  # the best of several epochs, a step
    products_ms: float = 0.0  # the matrix products of a step alone, likewise
    gflops: float = 0.0  # 1e9 operations of these products a second of training
    samples_per_second: float = 0.0
    share: float = 0.0  # of the products in the step: 1 is the floor
    problem: str = ""


def run(devices: Sequence[str] | None = None, *, seconds: float = 40.0) -> list[Row]:
    """Time the four networks on each device, in about so many seconds once it is warm.

    devices: names as of `devices.select`; None: all those of this machine whose library
    is NumPy or CuPy, which are the ones that nnaccel is written for.
    A device that is named but not there raises as `select` does.
    """
    if devices is None:
        found = [device.name for device in available() if not device.problem]
        devices = [name for name in found if name.startswith(("cpu", "cuda"))]
    rows = []
    for name in devices:
        device = select(name)
        for shape in SHAPES:
            rows.append(measure(shape, device, seconds / (len(devices) * len(SHAPES))))
    return rows


def measure(shape: Shape, device: Device, seconds: float) -> Row:
    """One network on one device."""
    try:
        X, Y, order = examples(shape)
        with explain_device_errors(device, shape.network, "float32"), device.context():
            epoch = Trainer(shape, X, Y, device).epoch
            bare = products(shape, device)
            # Turn and turn about, since a machine that slows down should slow both.
            trained, floor = interleaved(
                lambda: epoch(order), lambda: bare(shape.steps), seconds=seconds
            )
    except MemoryError as error:
        return Row(device.name, shape.name, problem=str(error) or "not enough memory")
    step, floor = trained / shape.steps, floor / shape.steps
    return Row(
        device.name,
        shape.name,
        1e3 * step,
        1e3 * floor,
        shape.flops / step / 1e9,
        shape.batch / step,
        floor / step,
    )


def interleaved(*functions: Callable[[], Any], seconds: float) -> list[float]:
    """The best time of each function in seconds, called in turn, after a first call of each."""
    for function in functions:
        function()
    best = [float("inf")] * len(functions)
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        for i, function in enumerate(functions):
            started = time.perf_counter()
            function()
            best[i] = min(best[i], time.perf_counter() - started)
    return best


def examples(shape: Shape, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (N, D), classes Y (N,) and an order (N,): Gaussian, classes by a random linear map."""
    rng = np.random.default_rng(seed)
    N, D, K = shape.batch * shape.steps, shape.sizes[0], shape.sizes[-1]
    X = rng.standard_normal((N, D), dtype=np.float32)
    Z = X @ rng.standard_normal((D, K), dtype=np.float32)
    Y = np.argmax(Z, axis=1) if K > 1 else (Z[:, 0] > 0).astype(np.int64)
    return X, Y, rng.permutation(N)


class Trainer:
    """What `nnaccel.training.loop.train` builds, without what it does between epochs."""

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

    def epoch(self, order: Array) -> np.ndarray:
        """Trains for an epoch in that order; the loss of each step, on the host."""
        return to_host(self.launch(order))

    def launch(self, order: Array) -> Array:
        """The same, but the losses stay on the device, which may still be at work."""
        run = self.run
        context = self._backend.context(run.network, run.batch_size, run.precision)
        with context, np.errstate(all="ignore"):
            self.params, self.state, records = self._epoch(
                self.params, self.state, self.data, self.device.asarray(order)
            )
        return records


def products(shape: Shape, device: Device, precision: str = "float32") -> Callable[[int], None]:
    """The bare matrix products of so many steps, on as many threads, and each into memory that is
    there where possible. precision: on CuPy, whose kernels have it; float32 elsewhere."""
    xp, given = device.xp, lambda x: x
    multiply: Any = xp.matmul
    if device.library == "cupy":
        from nnaccel.kernels.cuda.workspace import Workspace

        space = Workspace(xp, precision)
        multiply, given = space.product, lambda x: space.factor(x, precision == "bf16")
    A = [device.asarray(np.ones((shape.batch, size), np.float32)) for size in shape.sizes]
    W = [device.asarray(np.ones((D, H), np.float32) / D) for D, H in pairwise(shape.sizes)]
    A, W = [given(x) for x in A], [given(x) for x in W]
    pairs = [(A[i], W[i]) for i in range(len(W))]
    pairs += [(xp.matrix_transpose(A[i]), A[i + 1]) for i in reversed(range(len(W)))]
    pairs += [(A[i + 1], xp.matrix_transpose(W[i])) for i in reversed(range(1, len(W)))]
    # NumPy and CuPy write into place, as the kernels let them.
    in_place = device.library in ("numpy", "cupy")
    shapes = [(left.shape[0], right.shape[1]) for left, right in pairs]
    outs = [device.asarray(np.empty(size, np.float32)) for size in shapes]

    backend = backend_of(xp)

    def bare(steps: int) -> None:
        result = None
        with backend.context(shape.network, shape.batch):
            for _ in range(steps):
                for (left, right), out in zip(pairs, outs, strict=True):
                    if in_place:
                        result = multiply(left, right, out=out)
                    else:
                        result = multiply(left, right)
        device.synchronize(result)

    return bare
