"""An epoch of a small network in one launch, on CuPy.

Launch time dominates where a step takes the device less time than a launch takes the host. So one
launch runs thousands of steps: `small_epoch` of `small_network.cuh` keeps a network in the shared
memory of one multiprocessor and trains it there. Independent networks train at the same time, one
per multiprocessor. This module decides which networks fit, and how the work is divided among the
threads of a block. All figures here are estimates, not yet measured on a GPU.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import cupy
import numpy as np
from array_api_compat import numpy as host

from nnaccel.kernels.cuda.launch import are_contiguous, kernel, pointer
from nnaccel.kernels.cuda.signatures import LANES, TYPES
from nnaccel.kernels.definition import FusedEpoch, NotSupported, Run
from nnaccel.kernels.dense_plan import CROSS_ENTROPY, Plan, by_batch, plan_of, scalars_of
from nnaccel.kernels.optimizer_trace import Count, check_adam, rules_of
from nnaccel.maths.minibatch import bounds
from nnaccel.maths.network import layout
from nnaccel.maths.optimizers import State
from nnaccel.typing import Array, Namespace

# The activations of `with_activation` in `small_network.cuh`, in the order of their codes. Their
# derivatives do not read Z.
ACTIVATIONS = [
    *("identity", "sigmoid", "tanh", "relu", "leaky_relu", "softplus", "elu", "selu"),
]

# Most floating-point operations of a step for which one multiprocessor is faster than the whole
# device: it does an estimated 100 to 150 per nanosecond in these loops, and a step in a CUDA graph
# takes an estimated 35 microseconds. Several networks save more launches, so the limit for each of
# them is larger by the factor MORE_OF_SEVERAL.
MOST, MORE_OF_SEVERAL = 4e6, 2

STEPS = 4096  # most steps of a launch, so that a display is not blocked for seconds

DEFAULT_SHARED_MEMORY = 48 * 1024  # bytes that a kernel may use without opting in to more


class Geometry(NamedTuple):
    """The division of a step among the threads of a block; `small_epoch` explains the terms."""

    V: int  # examples that a thread processes together; a tile of dW is V x V
    threads: int
    columns: int  # columns of the matrices in shared memory: one per example, and padding
    width: int  # lanes of a warp with different examples; the others have other units of the same
    sharing: int  # lanes with the same tile of dW and different examples


class SharedMemory(NamedTuple):
    """The layout of a block's shared memory."""

    layers: np.ndarray  # (L, 12), as `LayerOffsets` in `small_network.cuh` names them
    n_padded: int  # elements of the parameters, with padding
    n_weights: int  # elements of the weights, with padding
    n_buffers: int  # buffers for minibatches: 2 if the next one is loaded during this step
    nbytes: int  # without the moments
    moments: int  # bytes of Adam's moments, in shared or in global memory


class SmallEpochArguments(NamedTuple):
    """The arguments of `small_epoch` in `small_network.cuh`, in the same order."""

    params: Array
    mu: Array
    nu: Array
    P: int
    offsets: Array
    slopes: Array
    layers: int
    X: Array
    row: int
    Y: Array
    C: int
    weights: Any
    order: Array
    N: int
    batch: int
    full: int
    begin: int
    steps: int
    scalars: Array
    beta_1: float
    beta_2: float
    l2: float
    loss: int
    records: Array
    logits: Any
    moments: Any
    n_padded: int
    n_weights: int
    n_buffers: int
    columns: int
    example_lanes: int
    sharing_lanes: int


def geometry(sizes: list[int], batch_size: int, itemsize: int) -> Geometry:
    """The division of a step for layers of these sizes.

    If a thread has much work it processes 16 bytes of examples at once, and uses each number that
    it reads from shared memory in several products.
    """
    widest = max(sizes[1:])
    V = 16 // itemsize if batch_size * min(LANES, widest) >= 4096 else 1
    most = 512 if V > 1 else {4: 768, 8: 640}[itemsize]  # threads, limited by their registers
    parts = min(LANES, floor_power(512 * V // batch_size), floor_power(2 * widest - 1))
    width = LANES // parts
    warps = -(-batch_size // (width * V))
    tiles = sum(tiles_of(D, H, V) for D, H in pairwise(sizes))
    sharing = min(LANES, max(V, floor_power(most // tiles)))
    threads = min(most, LANES * max(warps, -(-tiles * sharing // LANES)))
    # With this gap, lanes that read or write different rows use different banks.
    gap = sharing if sharing < LANES else width * V % LANES
    covered = warps * width * V
    return Geometry(V, threads, covered + (gap - covered) % LANES, width, sharing)


def floor_power(n: int) -> int:
    """The largest power of two <= n; 1 for n < 1."""
    return 1 << max(0, n.bit_length() - 1)


def tiles_of(D: int, H: int, V: int) -> int:
    """The number of V x V tiles in the gradient of a layer, (D + 1, H) with db as the last row."""
    return -(-(D + 1) // V) * -(-H // V)


def shared_memory_of(
    sizes: list[int],
    codes: list[int],
    targets: int,
    shape: Geometry,
    itemsize: int,
    n_buffers: int = 2,
) -> SharedMemory:
    """The layout of shared memory for layers of these sizes.

    codes: the activations, as indices into ACTIVATIONS.   targets: columns of Y.
    itemsize: bytes per number.   n_buffers: buffers for minibatches.
    """
    layers, columns = list(pairwise(sizes)), shape.columns
    n_weights = sum(D * (H | 1) for D, H in layers)  # rows are padded to an odd length
    n_padded = n_weights + sum(H for _, H in layers)
    n_padded += -n_padded % 4
    params = (n_buffers * (sizes[0] + targets + 1) + 1) * columns
    A = params + 2 * n_padded + LANES
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
    return SharedMemory(table, n_padded, n_weights, n_buffers, nbytes, itemsize * 2 * n_padded)


def work(sizes: list[int], batch_size: int) -> int:
    """Floating-point operations of the matrix products of a step."""
    products = sum(D * H for D, H in pairwise(sizes))
    return batch_size * (6 * products - 2 * sizes[0] * sizes[1])


def max_shared_memory() -> int:
    """Most bytes of shared memory that a kernel can opt in to on the current device."""
    return cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]


def kernel_supports(plan: Plan, params: Array, state: State, data: Any, order: Array) -> bool:
    """Whether the kernel supports the dtypes, shapes and strides of these arrays.

    params and slots: (P,) or (K, P).   data: X (N, D), Y (N,) or (N, C), weights (N,) or None.
    order: int64 indices of examples.
    """
    X, Y, weights = data
    vectors = (params, *state.slots) if weights is None else (params, *state.slots, weights)
    return (
        params.ndim in (1, 2)
        and params.shape[0] > 0
        and are_contiguous(*vectors)
        and (weights is None or weights.ndim == 1)
        and X.dtype == params.dtype
        and X.strides[1] == X.itemsize
        and Y.shape[1:] == (() if plan.loss == CROSS_ENTROPY else (plan.sizes[-1],))
        and 0 < order.shape[0] < 2**30
        and order.dtype == np.int64
        and order.flags.c_contiguous
    )


def one_launch_epoch(run: Run, xp: Namespace) -> FusedEpoch:
    """The epoch of a run in one launch, for params (P,), or (K, P) for K networks.

    Raises NotSupported for layers, activations, losses and optimizers that the kernel does not
    have, and for too much work in a step. The epoch raises it for arrays that the kernel does not
    support, and if a step does not fit into shared memory.
    """
    network, batch_size = run.network, run.batch_size
    plan = plan_of(run, ACTIVATIONS)
    check_adam(run)
    n_flops, too_much = (
        work(plan.sizes, batch_size),
        "a step is too much work for one multiprocessor",
    )
    if n_flops > MOST * MORE_OF_SEVERAL:
        raise NotSupported(too_much)
    sizes, size, n_weights = plan.sizes, layout(network).size, layout(network).n_weights
    codes = [ACTIVATIONS.index(name) for name in plan.activations]
    targets = 1 if plan.loss == CROSS_ENTROPY else sizes[-1]
    on_device: dict[Any, Any] = {}  # the plan, uploaded for the first epoch
    count = Count()

    def epoch_in_one_launch(params: Array, state: State, data: Any, order: Array) -> Any:
        if not kernel_supports(plan, params, state, data, order):
            raise NotSupported("the kernel does not read arrays of these types")
        if params.ndim == 1 and n_flops > MOST:
            raise NotSupported(too_much)
        (X, Y, weights), N, dtype = data, order.shape[0], params.dtype
        batch = min(batch_size, N)
        shape = geometry(sizes, batch, dtype.itemsize)
        limit = max_shared_memory()
        for n_buffers in (2, 1):
            shared = shared_memory_of(sizes, codes, targets, shape, dtype.itemsize, n_buffers)
            if shared.nbytes <= limit:
                break
        else:
            raise NotSupported("a step does not fit into shared memory")
        nbytes = shared.nbytes
        n_steps = len(bounds(N, batch))
        now = State(count.of(state.step), state.slots)
        rules = rules_of(run.optimizer, params, now, n_steps, n_weights, xp=host)
        if not rules.epsilon:  # the padding elements would be 0 / 0
            raise NotSupported("Adam's epsilon is 0")
        K = 1 if params.ndim == 1 else params.shape[0]
        moments: Any = 0
        if nbytes + shared.moments <= limit:
            nbytes += shared.moments
        else:
            moments = cupy.empty(2 * K * shared.n_padded, dtype)
        if (shape, dtype, n_buffers) not in on_device:
            on_device[shape, dtype, n_buffers] = (
                cupy.asarray(shared.layers),
                cupy.asarray(plan.parameters, dtype),
            )
        values = cupy.empty((n_steps, K), dtype)
        Z: Any = 0 if run.metric is None else cupy.empty((K, N, sizes[-1]), dtype)
        numbers = cupy.asarray(Y, dtype, order="C")  # class numbers too: exact up to 2^24
        (mu, nu), (offsets, slopes) = state.slots, on_device[shape, dtype, n_buffers]
        args = SmallEpochArguments(
            params=params,
            mu=mu,
            nu=nu,
            P=size,
            offsets=offsets,
            slopes=slopes,
            layers=len(codes),
            X=X,
            row=X.strides[0] // X.itemsize,
            Y=numbers,
            C=targets,
            weights=pointer(weights),
            order=order,
            N=N,
            batch=batch,
            full=batch_size if run.short_batch == "weighted" else 0,
            begin=0,
            steps=0,
            scalars=cupy.asarray(scalars_of(rules, n_steps, dtype)),
            beta_1=float(rules.beta_1),
            beta_2=float(rules.beta_2),
            l2=plan.l2,
            loss=plan.loss,
            records=values,
            logits=Z,
            moments=moments,
            n_padded=shared.n_padded,
            n_weights=shared.n_weights,
            n_buffers=n_buffers,
            columns=shape.columns,
            example_lanes=shape.width,
            sharing_lanes=shape.sharing,
        )
        launch = kernel("small_epoch", TYPES[dtype.name], str(shape.V))
        if nbytes > DEFAULT_SHARED_MEMORY:
            launch.max_dynamic_shared_size_bytes = nbytes
        for begin, end in bounds(n_steps, STEPS):
            some = args._replace(begin=begin, steps=end - begin)
            launch((K,), (shape.threads,), some, shared_mem=nbytes)
        state = State(count.after(state.step, n_steps), state.slots)
        records = values if params.ndim == 2 else values[:, 0]
        if run.metric is None:
            return params, state, records
        weights = None if weights is None else xp.take(weights, order, axis=0)
        logits = Z if params.ndim == 2 else Z[0]
        means = by_batch(run.metric, logits, xp.take(Y, order, axis=0), weights, batch, xp=xp)
        return params, state, xp.stack([records, means.T], axis=1)

    return FusedEpoch("CUDA, one launch an epoch", epoch_in_one_launch)
