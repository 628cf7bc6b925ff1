"""The training loop: a compiled step, minibatches, and epochs as a generator.

    for epoch in train(network, X, Y, loss="softmax_cross_entropy", epochs=20, device="cuda"):
        print(epoch.number, epoch.loss)          # stop, log, save: ordinary code around a loop

Within an epoch nothing waits for the device: losses stay there and are read once an epoch. The same
seed gives the same initial weights, minibatches and dropout masks on every device.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nnaccel.arguments import at_least, find
from nnaccel.devices.device import Device, select, to_host
from nnaccel.kernels.backend import Backend, backend_of
from nnaccel.kernels.definition import Run
from nnaccel.maths import losses, metrics, optimizers
from nnaccel.maths.losses import Loss
from nnaccel.maths.metrics import Metric
from nnaccel.maths.minibatch import bounds
from nnaccel.maths.network import Network, has_random_layers, leaves, without_dropout
from nnaccel.maths.optimizers import Optimizer, State
from nnaccel.maths.precision import check_precision
from nnaccel.maths.random import check_seed
from nnaccel.training.data import Data, HostData, floating_dtype, put, put_held_out
from nnaccel.training.device_errors import explain_device_errors
from nnaccel.training.epoch import Epoch, Origin, state_after
from nnaccel.training.members import check_examples_of_members, check_members, l2_of
from nnaccel.training.on_disk import (
    DiskArray,
    DiskBatches,
    DiskData,
    Order,
    put_on_disk,
    window_rows,
)
from nnaccel.training.orders import Orders
from nnaccel.training.prediction import check_params
from nnaccel.training.slices import each_on_device, host_batches
from nnaccel.training.step import (
    check_finite,
    check_validation,
    compile_run,
    evaluate,
    initialize,
    order_of,
    summarise,
)
from nnaccel.training.streaming import (
    Chunks,
    bytes_on_device,
    in_order,
    stream,
    training_rows,
)
from nnaccel.typing import Array


def train(
    network: Network,
    X: Any,
    Y: Any,
    *,
    loss: str | Loss,
    optimizer: str | Optimizer = "adam",
    epochs: int = 20,
    batch_size: int = 128,
    short_batch: str = "weighted",
    l2: Any = 0.0,
    sample_weight: Any = None,
    dropout_until: int | None = None,
    validation_data: tuple[Any, ...] | None = None,
    metric: str | Metric | None = None,
    shuffle: bool = True,
    seed: int = 0,
    device: str | Device | None = None,
    dtype: str | None = None,
    precision: str = "float32",
    params: Array | None = None,
    after: Epoch | None = None,
    kernels: bool | str = True,
) -> Iterator[Epoch]:
    """Train a network on (X, Y), yielding after every epoch.

    Parameters
    ----------
    network : Network
        Plain data, such as ``mlp(784, [512, 512], 10)``.
    X : array (N, n_inputs)
        An array of any library. Integers stay integers in memory and are cast a minibatch at a
        time. Data that are too large for a GPU's memory stay on the host, and so does a CSR matrix
        of SciPy or CuPy; their rows reach the device a chunk at a time, in the same minibatches. A
        `DiskArray` stays on the disk and is read a window of rows at a time; Y and sample_weight
        then have this type, too.
    Y : array (N,) or (N, n_outputs)
        Integer classes or probabilities for "softmax_cross_entropy", else numbers.
    loss, optimizer : str or Loss, Optimizer
        A name, or one with its parameters: ``losses.get("huber", delta=2.0)``, ``adam(3e-4)``.
    epochs : int
        The number of passes over the examples.
    batch_size : int
        The number of examples in a minibatch; at most N of them are used. The last minibatch of an
        epoch may be shorter; no example is left out.
    short_batch : "weighted" or "full"
        The weight of that last minibatch. "weighted": its gradient is multiplied by its share of a
        full one, its rows / batch_size, so that each example counts the same. "full": its gradient
        is the mean over its rows, like that of any other minibatch. With a few rows that is a step
        of mostly noise at the full learning rate, which has cost 3 points of accuracy. Losses and
        metrics are means over rows in both cases.
    l2 : float or array (K,)
        Adds `l2/2 |W|^2` to the objective; for decoupled decay see the optimizers. With params
        (K, P) it may have a value for each of the K networks, and so may numbers of the optimizer.
    sample_weight : array (N,) or (K, N), optional
        How much each example counts; divided by the mean. With params (K, P) each network may have
        its own weights: with weights of 0 and 1 network k trains without the examples of fold k.
    dropout_until : int, optional
        The last epoch with dropout; later epochs train without it. None: all epochs have it.
    validation_data : tuple (X, Y) or (X, Y, sample_weight), optional
        Evaluated after every epoch. With params (K, P), X (K, n, n_inputs), Y (K, n, ...) and
        sample_weight (K, n) are the examples of each network.
    metric : str or Metric, optional
        Computed along with the loss; see `nnaccel.maths.metrics`.
    shuffle : bool
        Whether examples are visited in a new order, drawn from (seed, epoch), in every epoch.
    seed : int
        The seed of initial weights, order and dropout; from 0 to 2^64 - 1.
    device : str, optional
        The device that trains; None: the device of the arrays. See `nnaccel.devices.device.select`.
    dtype : "float32" or "float64", optional
        None: the dtype of X if it is floating, else float32.
    precision : "float32", "tf32" or "bf16"
        The precision of the matrix products in dense layers, for dtype float32. Their operands are
        rounded to it; everything else is float32. A GPU has faster products in the lower
        precisions; a CPU rounds the operands and computes in float32. See
        `nnaccel.maths.precision`.
    params : array (P,) or (K, P), optional
        The initial parameters, by default a draw by `initialize`; (K, P) trains K networks at once.
    after : Epoch, optional
        Continue the run that yielded this epoch, bit for bit, up to epoch number `epochs`. Network,
        loss, kind of optimizer, batch size, short_batch, seed, shuffle, dtype and number of
        examples must be the same. Other arguments may change, such as the learning rate; with
        another l2, precision, device or set of kernels the run no longer has the same bits. Raises
        RuntimeError for an epoch whose vectors the next one has overwritten: keep ``epoch.copy()``.
    kernels : True, False or "numpy"
        Whether to use the kernels that replace the operations of `nnaccel.maths`. False runs the
        operations themselves, one step after the other: a breakpoint in `dense` stops there.
        "numpy" leaves out Numba, which takes about 0.3 s to load. The environment variable
        NNACCEL_KERNELS=0 means False. The logger "nnaccel" reports at level DEBUG which kernels
        run.

    Raises
    ------
    ValueError, TypeError
        At once, for arrays that do not fit together, numbers that are not finite, targets out of
        the range of the loss, and options out of their range.
    FloatingPointError
        In the epoch where the loss or a parameter stops being finite.
    MemoryError
        If the device, or the host, has no memory left; it names a batch size that would fit.
    """
    loss = losses.get(loss)
    optimizer = optimizers.get(optimizer, 1e-3)
    metric = metrics.get(metric, loss) if isinstance(metric, str | Metric) else metric
    seed = check_seed(seed)
    [epochs] = at_least(0, epochs=epochs)
    [batch_size] = at_least(1, batch_size=batch_size)
    if dropout_until is not None:
        [dropout_until] = at_least(0, dropout_until=dropout_until)
    where = select(device, X, Y)
    dtype = dtype or floating_dtype(X)
    find("dtype", dtype, FLOATING)
    find("short_batch", short_batch, SHORT_BATCHES)
    check_precision(precision, dtype)
    _check_options(validation_data, metric, after, shuffle=shuffle)
    backend = backend_of(where.xp, kernels)
    run = Run(
        network,
        loss,
        optimizer,
        batch_size,
        dtype,
        l2_of(l2),
        metric,
        seed,
        precision,
        short_batch,
    )
    given = Given(X, Y, sample_weight, validation_data, params, after, dropout_until)
    numbers = range(1 if after is None else after.number + 1, epochs + 1)
    with explain_device_errors(where, network, dtype):
        return _begin(run, given, numbers, shuffle, where, backend)


class Given(NamedTuple):
    """The arrays given to `train`, not yet checked."""

    X: Any
    Y: Any
    sample_weight: Any
    validation_data: Any
    params: Any
    after: Epoch | None
    dropout_until: int | None = None

    def start(self, run: Run, where: Device) -> tuple[Array, State]:
        """The initial parameters and optimizer state of the run, as copies on a device."""
        params = initialize(run.network, run.seed) if self.params is None else self.params
        params = params if self.after is None else self.after.params
        params = where.asarray(params, run.dtype, copy=True)
        check_params(run.network, params)
        check_members(params, l2=run.l2, optimizer=run.optimizer)
        check_examples_of_members(params, self.sample_weight, self.validation_data)
        if self.after is None:
            return params, run.optimizer.init(params, xp=where.xp)
        return params, state_after(self.after, params, run.optimizer, where)


def _begin(
    run: Run, given: Given, numbers: range, shuffle: bool, where: Device, backend: Backend
) -> Iterator[Epoch]:
    """Moves the data of a run to the device and begins its epochs.

    A separate function, so that an error does not keep the arrays on the device alive.
    """
    network, loss, dtype = run.network, run.loss, run.dtype
    if isinstance(given.X, DiskArray):
        data = put_on_disk(network, given.X, given.Y, given.sample_weight)
    else:
        data = put(network, loss, where, dtype, given.X, given.Y, given.sample_weight)
    held_out = put_held_out(network, loss, where, dtype, given.validation_data)
    N = data.X.shape[0]
    # A batch_size above N would only take memory.
    run = run._replace(batch_size=min(run.batch_size, N))
    origin = Origin.of(run, N, shuffle, given.dropout_until)
    if given.after is not None:
        origin.check_same(given.after)
    with where.context():
        params, state = given.start(run, where)
        run = run._replace(dtype=params.dtype)
        compiled = compile_run(backend, run)
        sliced = where.is_several and backend.takes_slices
        on = partial(_epoch_on, data, run._replace(dtype=dtype), where, sliced)
        epoch = on(compiled.epoch_of(run.seed))
        later = epoch
        if given.dropout_until is not None and has_random_layers(network):
            resting = run._replace(network=without_dropout(network))
            later = on(compile_run(backend, resting).epoch_of(run.seed))
        held_out = None if held_out is None else in_order(held_out, where)
        params, state = map(compiled.split_params, (params, state))
    epochs = Epochs(epoch, later, given.dropout_until)
    begun = Begun(run, origin, epochs, compiled.evaluate, params, state, held_out)
    draw: Any = partial(order_of, N, run.seed, shuffle=shuffle)
    if isinstance(data, DiskData):
        draw = partial(Order, N, data.X.regions, run.seed, shuffle)
    orders = Orders(draw, numbers, N, where)
    guard = explain_device_errors(
        where,
        network,
        dtype,
        batch_size=run.batch_size,
        data=(
            2 * window_rows(data) * data.X.row_bytes
            if isinstance(data, DiskData)
            else bytes_on_device(data, run.batch_size, dtype)
        ),
        members=next(leaves(params)).shape[0] if next(leaves(params)).ndim == 2 else 1,
    )
    return _with_context(_epochs(begun, N, numbers, orders, where, backend), guard)


LONG = 0.1  # seconds that an interruption may have to wait
FLOATING: dict[str, None] = {"float32": None, "float64": None}
SHORT_BATCHES: dict[str, None] = {"weighted": None, "full": None}


def _check_options(validation: Any, metric: Any, after: Any, **flags: Any) -> None:
    """Raises ValueError or TypeError for arguments that would fail later with a less helpful
    message."""
    listed = isinstance(validation, tuple | list)
    if validation is not None and not (listed and len(validation) in (2, 3)):
        found = f"{len(validation)} of these" if listed else type(validation).__name__
        raise TypeError(f"validation_data must be (X, Y) or (X, Y, sample_weight), got {found}")
    if not isinstance(metric, Metric | None):
        raise TypeError(
            "metric must be a name or a Metric, such as nnaccel.metrics.for_loss(loss), "
            f"got {metric!r}"
        )
    if not isinstance(after, Epoch | None):
        raise TypeError(f"after must be an Epoch that `train` has yielded, got {after!r}")
    for name, flag in flags.items():
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {flag!r}")


def _with_context(
    epochs: Iterator[Epoch], context: AbstractContextManager[None]
) -> Iterator[Epoch]:
    with context:
        yield from epochs


class Epochs(NamedTuple):
    """The epochs of a run, (number, params, state, order) -> (params, state, records)."""

    first: Callable[..., Any]
    later: Callable[..., Any]
    until: int | None  # the last epoch of the first kind; None: all are

    def __call__(self, number: int, *args: Any) -> Any:
        return (self.first if self.until is None or number <= self.until else self.later)(*args)


class Begun(NamedTuple):
    """A run in progress: its compiled functions, its parameters and state (split), and the
    validation data."""

    run: Run
    origin: Origin
    epoch: Epochs
    evaluate: Callable[..., Array]
    params: Any
    state: Any
    held_out: Chunks | None


def _epochs(
    begun: Begun,
    N: int,
    numbers: range,
    orders: Orders,
    where: Device,
    backend: Backend,
) -> Iterator[Epoch]:
    """The epochs of `train` with these numbers."""
    (run, origin, epoch, evaluation, params, state, held_out), metric = begun, begun.run.metric
    del begun  # would keep the first parameters alive
    sizes = [stop - start for start, stop in bounds(N, run.batch_size)]
    seconds = math.inf  # of the epoch before; unknown for the first one
    for number in numbers:
        started = time.perf_counter()
        context = backend.context(run.network, run.batch_size, run.precision)
        # Overflow shows in the losses of the whole epoch, which are checked.
        with where.context(), context, np.errstate(all="ignore"):
            origin.overwritten = number - 1 if backend.overwrites else 0
            order = orders.of(number)
            with orders.next_drawn(number):
                params, state, records = epoch(number, params, state, order)
                if seconds > LONG:
                    backend.wait(records)
                values = to_host(records)
            seconds = time.perf_counter() - started
            check_finite(values, params, number, xp=where.xp)
            trained = summarise(values, sizes, metric)
            held = (None, None)
            if held_out is not None:
                held = evaluate(evaluation, params, held_out, metric)
                check_validation(held[0], number)
        greater = metric and metric.greater_is_better
        speed = N / max(seconds, 1e-9)
        yield Epoch(number, params, state, *trained, *held, seconds, speed, greater, origin)


def _epoch_on(
    data: Data | HostData | DiskData,
    run: Run,
    where: Device,
    sliced: bool,
    epoch: Callable[..., Any],
) -> Callable[..., tuple[Any, Any, Array]]:
    """The epoch (params, state, order) -> (params, state, records), where order is that of the rows
    (N,) on the host, or of the windows on the disk.

    sliced: whether several devices each get their share of data that are not resident. epoch:
    (params, state, data, order) -> the same.   Data on the host, or on the disk, become many small
    data sets of one or more whole minibatches. The epoch runs over them one after the other.
    """
    if isinstance(data, Data):
        return lambda params, state, order: epoch(params, state, data, where.asarray(order))
    from_there: Any = _from_disk if isinstance(data, DiskData) else _from_host
    parts: Parts = from_there(data, run, where, sliced)

    def streamed(params: Any, state: Any, order: Any) -> tuple[Any, Any, Array]:
        records = []
        for part, index in parts(order):
            params, state, record = epoch(params, state, part, index)
            records.append(record)
            del part, index  # before the next but one is read
        return params, state, where.xp.concat(records)

    return streamed


# order of an epoch -> the rows, and the order in which to visit them.
Parts = Callable[[Any], Iterator[tuple[Data, Array]]]


def _from_host(data: HostData, run: Run, where: Device, sliced: bool) -> Parts:
    rows = training_rows(data, run.batch_size)
    if sliced:
        return lambda order: each_on_device(
            host_batches(data, order, run.batch_size, rows), where, sliced=True
        )
    chunks = stream(data, where, rows)
    everything = where.asarray(np.arange(min(rows, data.X.shape[0])))
    return lambda order: ((chunk, everything[: chunk.Y.shape[0]]) for chunk in chunks(order))


def _from_disk(data: DiskData, run: Run, where: Device, sliced: bool) -> Parts:
    def parts(order: Order) -> Iterator[tuple[Data, Array]]:
        windows = order.windows(run.batch_size)
        batches = (DiskBatches(data, w, run.network, run.loss, run.dtype) for w in windows)
        return each_on_device(batches, where, sliced=sliced)

    return parts
