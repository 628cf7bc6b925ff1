"""An epoch of a small network in one launch, on CuPy.

Where a step takes the device less time than a launch takes the host, launches are all that counts.
Here there is one for thousands of steps: `small_epoch` of `kernels.cu` keeps a network in the
shared memory of one multiprocessor, and trains it there. Independent networks are trained beside
each other, one a multiprocessor. This module decides which networks fit, and how the threads of a
block share out the work; none of its figures has been measured on a GPU yet.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import cupy
import numpy as np
from array_api_compat import numpy as host

from nnaccel.kernels.cuda.signatures import LANES, TYPES
from nnaccel.kernels.cuda.workspace import is_on_device, kernel
from nnaccel.kernels.definition import FusedEpoch, NotSupported, Run
from nnaccel.kernels.dense_plan import CROSS_ENTROPY, Plan, by_batch, plan_of, scalars_of
from nnaccel.kernels.optimizer_trace import Count, check_adam, rules_of
from nnaccel.maths.minibatch import bounds
from nnaccel.maths.network import layout
from nnaccel.maths.optimizers import State
from nnaccel.typing import Array, Namespace

# The activations of `with_activation` in `kernels.cu`, by their numbers: those that need no Z.
ACTIVATIONS = [
    *("identity", "sigmoid", "tanh", "relu", "leaky_relu", "softplus", "elu", "selu"),
]

# Floating-point operations of a step, up to which one multiprocessor is faster than all of them: in
# such loops it does an estimated 100 to 150 a nanosecond, and the launches of a step of kernels
# take about 90 microseconds.
MOST = 9e6

STEPS = 4096  # of a launch, at most, so that a display does not wait for seconds

WITHOUT_ASKING = 48 * 1024  # bytes of shared memory that any kernel may have


class Geometry(NamedTuple):
    """How a block shares out a step, in the words of `small_epoch`."""

    V: int  # examples that a thread does together, and rows and columns of its tile of dW
    threads: int
    columns: int  # of the matrices in shared memory, one an example and some to spare
    width: int  # lanes of a warp that do other examples; the others do other units of the same
    sharing: int  # lanes that do the same tile of dW, for other examples


class SharedMemory(NamedTuple):
    """Where everything is in shared memory."""

    layers: np.ndarray  # (L, 12), as `Place` in `kernels.cu` names them
    room: int  # numbers that parameters take, and n_weights of them weights
    n_weights: int
    halves: int
    nbytes: int  # but for the moments
    moments: int  # bytes, in shared memory or elsewhere


def geometry(sizes: list[int], batch_size: int, itemsize: int) -> Geometry:
    """For layers of these sizes. Where a thread has much to do it does 16 bytes of examples at
    once: what it has read from shared memory then serves several products."""
    widest = max(sizes[1:])
    V = 16 // itemsize if batch_size * min(LANES, widest) >= 4096 else 1
    most = 512 if V > 1 else {4: 768, 8: 640}[itemsize]  # threads, by the registers that they need
    parts = min(LANES, power(512 * V // batch_size), power(2 * widest - 1))
    width = LANES // parts
    warps = -(-batch_size // (width * V))
    tiles = sum(tiles_of(D, H, V) for D, H in pairwise(sizes))
    sharing = min(LANES, max(V, power(most // tiles)))
    threads = min(most, LANES * max(warps, -(-tiles * sharing // LANES)))
    # Lanes that read other rows, or write them, then find them in other banks.
    gap = sharing if sharing < LANES else width * V % LANES
    covered = warps * width * V
    return Geometry(V, threads, covered + (gap - covered) % LANES, width, sharing)


def power(n: int) -> int:
    """The largest power of two that is at most n, and at least 1."""
    return 1 << max(0, n.bit_length() - 1)


def tiles_of(D: int, H: int, V: int) -> int:
    """Tiles of V x V numbers in the gradient of a layer, its biases being one more row."""
    return -(-(D + 1) // V) * -(-H // V)


def shared_memory_of(
    sizes: list[int],
    codes: list[int],
    targets: int,
    shape: Geometry,
    itemsize: int,
    halves: int = 2,
) -> SharedMemory:
    """The places of everything for numbers of so many bytes, and Y of so many columns; halves: of
    what holds minibatches, 2 if the next one comes in beside this one."""
    layers, columns = list(pairwise(sizes)), shape.columns
    n_weights = sum(D * (H | 1) for D, H in layers)  # rows of an odd length
    room = n_weights + sum(H for _, H in layers)
    room += -room % 4
    params = (halves * (sizes[0] + targets + 1) + 1) * columns
    A = params + 2 * room + LANES
    dZ = A + sum(sizes[1:]) * columns
    W, b, from_W, from_b, tiles = params, params + n_weights, 0, sum(D * H for D, H in layers), 0
    rows, before = [], 0
    for (D, H), code in zip(layers, codes, strict=True):
        tiles += tiles_of(D, H, shape.V)
        rows.append((D, H, code, from_W, from_b, W - params, b - params, before, A, dZ, tiles, 0))
        before = A
        W, b, from_W, from_b = W + D * (H | 1), b + H, from_W + D * H, from_b + H
        A, dZ = A + H * columns, dZ + H * columns
    table = np.array(rows, np.int64)
    described = 16 * columns + 4 * table.size
    nbytes = described + itemsize * dZ
    return SharedMemory(table, room, n_weights, halves, nbytes, itemsize * 2 * room)


def work(sizes: list[int], batch_size: int) -> int:
    """Floating-point operations of the products of a step."""
    products = sum(D * H for D, H in pairwise(sizes))
    return batch_size * (6 * products - 2 * sizes[0] * sizes[1])


def room_of_a_block() -> int:
    """Bytes of shared memory that a kernel may have on this device, if it asks for them."""
    return cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]


def kernel_supports(plan: Plan, params: Array, state: State, data: Any, order: Array) -> bool:
    """Whether the kernel reads arrays of these types, shapes and places."""
    X, Y, weights = data
    vectors = (params, *state.slots) if weights is None else (params, *state.slots, weights)
    return (
        params.ndim in (1, 2)
        and params.shape[0] > 0
        and is_on_device(*vectors)
        and X.dtype == params.dtype
        and X.strides[1] == X.itemsize
        and Y.shape[1:] == (() if plan.loss == CROSS_ENTROPY else (plan.sizes[-1],))
        and 0 < order.shape[0] < 2**30
        and order.dtype == np.int64
        and order.flags.c_contiguous
    )


def one_launch_epoch(run: Run, xp: Namespace) -> FusedEpoch:
    """The epoch of a run in one launch; NotSupported for layers, activations and losses that are
    not known, and for too much work.

    The epoch itself refuses what does not fit into shared memory, and other types. params: (P,), or
    (K, P) for K networks.
    """
    network, batch_size = run.network, run.batch_size
    plan = plan_of(run, ACTIVATIONS)
    check_adam(run)
    if work(plan.sizes, batch_size) > MOST:
        raise NotSupported("a step is too much work for one multiprocessor")
    sizes, size, n_weights = plan.sizes, layout(network).size, layout(network).n_weights
    codes = [ACTIVATIONS.index(name) for name in plan.activations]
    targets = 1 if plan.loss == CROSS_ENTROPY else sizes[-1]
    on_device: dict[Any, Any] = {}  # the plan, uploaded for the first epoch
    count = Count()

    def epoch_in_one_launch(params: Array, state: State, data: Any, order: Array) -> Any:
        if not kernel_supports(plan, params, state, data, order):
            raise NotSupported("the kernel does not read arrays of these types")
        (X, Y, weights), N, dtype = data, order.shape[0], params.dtype
        batch = min(batch_size, N)
        shape = geometry(sizes, batch, dtype.itemsize)
        limit = room_of_a_block()
        for halves in (2, 1):
            places = shared_memory_of(sizes, codes, targets, shape, dtype.itemsize, halves)
            if places.nbytes <= limit:
                break
        else:
            raise NotSupported("a step does not fit into shared memory")
        nbytes = places.nbytes
        n_steps = len(bounds(N, batch))
        now = State(count.of(state.step), state.slots)
        rules = rules_of(run.optimizer, params, now, n_steps, n_weights, xp=host)
        if not rules.epsilon:  # numbers that only fill gaps would be 0 / 0
            raise NotSupported("Adam's epsilon is 0")
        K = 1 if params.ndim == 1 else params.shape[0]
        moments: Any = 0
        if nbytes + places.moments <= limit:
            nbytes += places.moments
        else:
            moments = cupy.empty(2 * K * places.room, dtype)
        if (shape, dtype, halves) not in on_device:
            on_device[shape, dtype, halves] = (
                cupy.asarray(places.layers),
                cupy.asarray(plan.parameters, dtype),
            )
        values = cupy.empty((n_steps, K), dtype)
        Z: Any = 0 if run.metric is None else cupy.empty((K, N, sizes[-1]), dtype)
        numbers = cupy.asarray(Y, dtype, order="C")  # of classes too: floating, exact to 2^24
        before = (
            *(params, *state.slots, size, *on_device[shape, dtype, halves], len(codes)),
            *(X, X.strides[0] // X.itemsize, numbers, targets),
            *(0 if weights is None else weights, order, N, batch),
        )
        after = (
            cupy.asarray(scalars_of(rules, n_steps, dtype)),
            *(float(rules.beta_1), float(rules.beta_2), float(run.l2), plan.loss, values, Z),
            *(moments, places.room, places.n_weights, halves),
            *(shape.columns, shape.width, shape.sharing),
        )
        launch = kernel("small_epoch", TYPES[dtype.name], str(shape.V))
        if nbytes > WITHOUT_ASKING:
            launch.max_dynamic_shared_size_bytes = nbytes
        for begin, end in bounds(n_steps, STEPS):
            args = (*before, begin, end - begin, *after)
            launch((K,), (shape.threads,), args, shared_mem=nbytes)
        state = State(count.after(state.step, n_steps), state.slots)
        records = values if params.ndim == 2 else values[:, 0]
        if run.metric is None:
            return params, state, records
        weights = None if weights is None else xp.take(weights, order, axis=0)
        logits = Z if params.ndim == 2 else Z[0]
        means = by_batch(run.metric, logits, xp.take(Y, order, axis=0), weights, batch, xp=xp)
        return params, state, xp.stack([records, means.T], axis=1)

    return FusedEpoch("CUDA, one launch an epoch", epoch_in_one_launch)
