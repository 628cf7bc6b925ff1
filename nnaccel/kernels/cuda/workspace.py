"""Kernels for CuPy: what is not a matrix product in as few launches as can be.

On a GPU a launch costs more than the work of most elementwise operations, and each temporary is a
journey through memory. The kernels of `kernels.cu` do in one launch what would be five or ten;
matrix products are cuBLASLt's, and write where their result belongs. Nothing here waits for the
device, but for the first product of each kind, whose algorithms may be timed; see `cublaslt.py`.
"""

from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from typing import Any

import cupy
import numpy as np

from nnaccel.kernels.cuda.cublaslt import ALIGNED, WORKSPACE, ProductPlan, address, product_plan
from nnaccel.kernels.cuda.signatures import (
    BY_SIGN,
    CASTS,
    FUNCTORS,
    HALF,
    KINDS,
    LANES,
    SOURCE,
    THREADS,
    TYPES,
)
from nnaccel.kernels.dense_plan import activation_of
from nnaccel.kernels.epoch import on_epoch_start
from nnaccel.kernels.gradient_buffers import Buffers, gradient_homes
from nnaccel.kernels.numpy.workspace import dropout_vjp_in_place
from nnaccel.maths import optimizers
from nnaccel.maths.activations import Activation
from nnaccel.maths.layers import Chain, Dense, Residual
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.layers.dropout import dropout, dropout_vjp
from nnaccel.maths.losses import softmax_cross_entropy
from nnaccel.maths.minibatch import minibatch
from nnaccel.maths.network import Layout, flatten, l2_penalty, views
from nnaccel.maths.random import BITS, GOLDEN, Key
from nnaccel.typing import Array, Namespace

# Blocks of a launch, at most: eight a multiprocessor of a large device. The same number on every
# device gives the same order of sums, and so the same bits.
BLOCKS = 1024
FEW = 128  # blocks of a launch whose results one block adds up one by one

BF16 = np.dtype(np.uint16)  # the bits of bfloat16, for which NumPy has no type

# Examples times inputs, up to which a dense layer of at most LANES units is a kernel of our own:
# a small product waits for launches, and cuBLAS is better at a large one.
SMALL = 2**20


def kernels(xp: Namespace, precision: str = "float32") -> dict[Callable, Callable]:
    """A new set of kernels, as the entries of an `Ops`; xp is for the definitions.

    precision: of the products of float32 matrices, "float32", "tf32" or "bf16".
    """
    return Workspace(xp, precision).kernels()


@cache
def kernel(name: str, *types: str) -> Any:
    """The kernel for these types, compiled for the device where it is called; CuPy keeps it there
    and on the disk. RuntimeError, with the remedy, where it cannot be compiled."""
    expression = f"{name}<{', '.join(types)}>"
    try:
        module = cupy.RawModule(
            code=_source(), options=("--std=c++17",), name_expressions=(expression,)
        )
        return module.get_function(expression)
    except (cupy.cuda.compiler.CompileException, OSError, RuntimeError) as error:
        log = "\n".join(str(error).strip().splitlines()[:5])
        raise RuntimeError(
            f"CuPy could not compile the CUDA kernel {expression} (CUDA {_versions()}):\n{log}\n"
            "Reinstall the CuPy that fits the driver, with its CUDA libraries, such as "
            "pip install 'cupy-cuda13x[ctk]'; or train with device='cpu'"
        ) from error


@cache
def _source() -> str:
    return SOURCE.read_text(encoding="utf-8")


def _versions() -> str:
    """The versions of CUDA that CuPy and the driver have, in words."""

    def asked(version: Callable[[], int]) -> str:
        try:
            number = version()
        except Exception:  # whatever is wrong with CUDA is being reported already
            return "unknown"
        return f"{number // 1000}.{number % 1000 // 10}" if number else "none"

    runtime = cupy.cuda.runtime
    return f"of CuPy {asked(runtime.runtimeGetVersion)}, of the driver " + asked(
        runtime.driverGetVersion
    )


@cache
def functor(activation: Activation) -> tuple[str, float] | None:
    """The functor of `kernels.cu` for an activation, and its parameter; None without one."""
    found = activation_of(activation)
    return None if found is None else (FUNCTORS[found[0]], found[1])


def tiles(rows: int, columns: int, element: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block of a kernel for so many rows: a thread does 16 bytes of a row if they can be
    read together, else one element, and the threads that a row does not need do other rows."""
    wide = 16 // element
    pieces = columns // wide if columns % wide == 0 else columns
    width = min(THREADS, 1 << (pieces - 1).bit_length())
    blocks = -(-rows // (THREADS // width))
    return (blocks, max(1, min(-(-pieces // width), BLOCKS // blocks))), (width, THREADS // width)


def line(n: int, element: int) -> tuple[tuple[int], tuple[int]]:
    """Grid and block for n elements in a line, 16 bytes a thread and then more of them."""
    return (max(1, min(BLOCKS, -(-n * element // (16 * THREADS)))),), (THREADS,)


def pair(x: Any, like: Array) -> tuple[Any, float] | None:
    """A number as the kernels take it: its place on the device and 0, or 0 and a number of the
    host. None for an array of several, or of another type than `like`."""
    if getattr(x, "ndim", 0):
        return None
    if not isinstance(x, cupy.ndarray):
        return 0, float(x)
    return (x, 0.0) if x.dtype == like.dtype else None


def is_on_device(*arrays: Array) -> bool:
    """Whether they are contiguous, and of the one floating type of the first."""
    dtype = arrays[0].dtype
    return dtype.name in TYPES and all(x.dtype == dtype and x.flags.c_contiguous for x in arrays)


def product_shape(X: Array, Y: Array) -> tuple[int, ...] | None:
    """The shape of X Y for matrices, or stacks of them along one axis; None for other arrays, and
    where nothing is to be multiplied."""
    if {X.ndim, Y.ndim} - {2, 3} or X.shape[-1] != Y.shape[-2] or not X.size or not Y.size:
        return None
    counts = {x.shape[0] for x in (X, Y) if x.ndim == 3} - {1}
    if len(counts) > 1:
        return None
    lead = (counts.pop() if counts else 1,) if 3 in (X.ndim, Y.ndim) else ()
    return *lead, X.shape[-2], Y.shape[-1]


def into_dense(layers: Any, tree: Any) -> Iterator[int]:
    """id(W) of each dense layer whose output only a dense layer reads. A class derived from one of
    ours may do something else."""
    for layer, arrays, after in zip(layers, tree, (*layers[1:], None), strict=True):
        if type(layer) in (Chain, Residual):
            yield from into_dense(layer.layers, arrays)
        elif type(layer) is Dense and type(after) is Dense:
            yield id(arrays[0])


def widened(x: Array) -> Array:
    """An array of bfloat16 in float32."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == BF16 else x


class Workspace(Buffers):
    """The buffers of one training run on a device, and the kernels that write into them.

    precision: of the products of float32 matrices, "float32", "tf32" or "bf16".

    With "bf16" factors of products are arrays of bfloat16, of type BF16: there is a copy of the
    parameters, which the update writes too, and one of the minibatch. Between two dense layers A is
    in bfloat16 alone, and float32 beside it where the derivative reads more than its sign. What
    comes from elsewhere is copied when a product asks for it.
    """

    def __init__(self, xp: Namespace, precision: str = "float32") -> None:
        super().__init__(cupy)
        self._xp = xp
        self._tf32, self._bf16 = precision == "tf32", precision == "bf16"
        # What definitions are told, since they are float32 by themselves.
        self._definition = {} if precision == "float32" else {"precision": precision}
        self._plans: dict[Any, ProductPlan | None] = {}  # by the products that they are for
        self._room = 0  # where the workspace of products is
        self._counters: Array | None = None  # zeros
        self._output: tuple[Array, Array] | None = None  # Z of the last layer, and where its db is
        self._summed: tuple[Array, Array] | None = None  # dZ of the loss, and its sum in that db
        # Of bfloat16: arrays and their copies in this pass through the network, which for those
        # that are of bfloat16 alone are they themselves; the last minibatch and its copy; that of
        # the parameters, and whether it is still what they are.
        self._halves: dict[int, tuple[Array, Array]] = {}
        self._batch: tuple[Array, Array] | None = None
        self._copy: Array | None = None
        self._weights: dict[int, Array] = {}  # id(W) -> its part of the copy
        self._fresh = False
        self._into_dense: set[int] = set()

    def kernels(self) -> dict[Callable, Callable]:
        return {
            on_epoch_start: self.on_epoch_start,
            views: self.views,
            flatten: self.flatten,
            minibatch: self.minibatch,
            dense: self.dense,
            dense_vjp: self.dense_vjp,
            dropout: self.dropout,
            dropout_vjp: dropout_vjp_in_place,
            softmax_cross_entropy: self.softmax_cross_entropy,
            l2_penalty: self.l2_penalty,
            optimizers.gradient_descent_update: self.gradient_descent_update,
            optimizers.momentum_update: self.momentum_update,
            optimizers.nesterov_update: self.nesterov_update,
            optimizers.rmsprop_update: self.rmsprop_update,
            optimizers.adam_update: self.adam_update,
            optimizers.shrink_weights: self.shrink_weights,
            optimizers.clip_by_global_norm: self.clip_by_global_norm,
        }

    def sums(self, n: int, dtype: Any, counters: int = 1) -> tuple[Array, Array]:
        """Room for n numbers that blocks add up together, and zeros that count the blocks."""
        if self._counters is None or self._counters.shape[0] < counters:
            self._counters = cupy.zeros(max(counters, LANES), np.uint32)
        return self._buffer("sums", (n,), dtype), self._counters

    def memory(self) -> list[Array]:
        """As of `Buffers.memory`."""
        return [*super().memory(), *([] if self._counters is None else [self._counters])]

    def views(self, params: Array, places: Layout) -> Any:
        """Twin of `network.views`; see `Buffers.views`."""
        self._output = self._summed = None
        known = params is self._params
        tree = super().views(params, places)
        if self._bf16:
            self._halves = {} if self._batch is None else {id(self._batch[0]): self._batch}
            if not known:
                self._copy, self._weights = None, {}
                self._into_dense = set(into_dense(places.layers, tree))
                if params.dtype == np.float32:
                    self._copy = self._buffer("copy", params.shape, BF16)
                    parts = views(self._copy, places, xp=cupy)
                    self._weights = {W: part[0] for W, part in gradient_homes(tree, parts)}
            if self._copy is not None and not (known and self._fresh):
                self.halve(params, self._copy)
            self._fresh = False  # until an update writes the copy too
        return tree

    def on_epoch_start(self, params: Array) -> None:
        """Twin of `epoch.on_epoch_start`."""
        self._fresh = params is self._params and self._copy is not None
        if self._fresh:
            self.halve(params, self._copy)

    def halve(self, X: Array, half: Array) -> None:
        """X in bfloat16, written into `half`."""
        X = cupy.ascontiguousarray(X)
        kernel("halve", TYPES[X.dtype.name])(*line(X.size, X.itemsize), (X, half, X.size))

    def factor(self, x: Array, bf16: bool) -> Array:
        """A float32 array as products take it: itself, or its copy in bfloat16."""
        if not bf16:
            return x
        if id(x) in self._weights:
            return self._weights[id(x)]
        if id(x) not in self._halves:
            half = self.empty(x.shape, BF16)
            self.halve(x, half)
            self._halves[id(x)] = x, half  # x too, lest its id becomes that of another array
        return self._halves[id(x)][1]

    def minibatch(
        self, X: Array, Y: Array, weights: Array | None, index: Array, dtype: Any
    ) -> tuple[Array, Array, Array | None]:
        """Twin of `minibatch.minibatch`."""
        dtype, B = np.dtype(dtype), index.shape[0]
        if (
            not (B and X.size and Y.size)
            or X.strides[1] != X.itemsize
            or X.dtype.name not in CASTS
            or Y.itemsize > 8
            or not (Y.flags.c_contiguous and index.flags.c_contiguous)
            or index.dtype != np.int64
            or dtype.name not in TYPES
            or (weights is not None and not (is_on_device(weights) and weights.dtype == dtype))
        ):
            return minibatch(X, Y, weights, index, dtype, xp=self._xp)
        D, row = X.shape[1], Y.shape[1:]
        rows = self._buffer("X", (B, D), dtype), self._buffer("Y", (B, *row), Y.dtype)
        if weights is None:
            pairs = 0, 0
        else:
            pairs = weights, self._buffer("weights", (B,), dtype)
        half = 0
        if self._bf16 and dtype == np.float32:
            half = self._buffer("X in bfloat16", (B, D), BF16)
            self._batch = rows[0], half
        kernel("minibatch", TYPES[dtype.name], CASTS[X.dtype.name])(
            *tiles(B, D, dtype.itemsize),
            (
                *(X, X.strides[0] // X.itemsize, index, rows[0], half, B, D),
                *(Y, rows[1], Y.itemsize, prod(row), *pairs),
            ),
        )
        return *rows, None if weights is None else pairs[1]

    def product(self, X: Array, Y: Array, out: Array) -> Array:
        """X Y, written into `out`, which shares no memory with X and Y.

        X: (..., N, D).   Y: (..., D, H).   out: (..., N, H).   Transposed views are read as they
        lie. On the current stream, which may be one that is being captured.
        """
        x, y, to = address(X), address(Y), address(out)
        key = (
            *(X.shape, X.strides, x % ALIGNED, X.dtype.char),
            *(Y.shape, Y.strides, y % ALIGNED, out.strides, to % ALIGNED, out.dtype.char),
        )
        if key not in self._plans:
            room = self._buffer("products", (WORKSPACE,), np.uint8)
            self._room = address(room)
            self._plans[key] = product_plan(X, Y, out, room, tf32=self._tf32)
        plan = self._plans[key]
        if plan is not None:
            plan(x, y, to, self._room, cupy.cuda.get_current_stream().ptr)
        elif out.flags.c_contiguous:
            cupy.matmul(widened(X), widened(Y), out=out)
        else:
            out[...] = cupy.matmul(widened(X), widened(Y))
        return out

    def dense(self, X: Array, W: Array, b: Array, activation: Activation) -> tuple[Any, Array]:
        """Twin of `layers.dense.dense`; Z is None where the activation does not read it. Where
        A is of bfloat16, Z is what the derivative reads if that is not A."""
        g, shape, bf16 = functor(activation), product_shape(X, W), self.in_bf16(W)
        if shape is None or not self.takes(X, W) or b.dtype != W.dtype:
            return dense(X, W, b, activation, xp=self._xp, **self._definition)
        Z = self.empty(shape, W.dtype)
        x, w = self.factor(X, bf16), self.factor(W, bf16)
        if g is None or len(shape) > 2 or not (is_on_device(W, b) and x.flags.c_contiguous):
            Z = self.product(x, w, Z) + b
            return Z, activation.forward(Z, xp=self._xp)
        (N, D), H, T, (G, parameter) = X.shape, W.shape[1], TYPES[W.dtype.name], g
        A = self.empty(shape, W.dtype) if activation.reads_Z else Z
        half = self.alone(shape) if bf16 and id(W) in self._into_dense else None
        # Z and A are only what the derivative reads, if the next layer reads neither.
        kept = A if half is None or not (activation.reads_Z or G in BY_SIGN) else None
        places = b, Z, 0 if kept is None else kept, 0 if half is None else half
        if H <= LANES and N * D <= SMALL:
            rows = THREADS // LANES // 2
            kernel("narrow", T, HALF if bf16 else T, G)(
                (-(-N // rows),),
                (LANES, rows),
                (x, w, *places, N, D, H, parameter, int(self._tf32)),
            )
        else:
            self.product(x, w, Z)
            kernel("activate", T, G)(*tiles(N, H, W.itemsize), (Z, b, *places[2:], N, H, parameter))
        if half is not None:
            return (Z if activation.reads_Z else kept), half
        if G == "Identity" and id(W) in self._homes:
            self._output = A, self._homes[id(W)][1]
        return (Z if activation.reads_Z else None), A

    def in_bf16(self, W: Array) -> bool:
        """Whether products with these weights are of bfloat16."""
        return self._bf16 and W.dtype == np.float32

    def takes(self, X: Array, W: Array) -> bool:
        """Whether they are of one type, or X of bfloat16 and made here: elsewhere 16-bit integers
        are what they are."""
        ours = self.in_bf16(W) and X.dtype == BF16 and id(X) in self._halves
        return W.dtype.name in TYPES and (ours or X.dtype == W.dtype)

    def dense_vjp(
        self,
        dA: Array,
        X: Array,
        W: Array,
        Z: Array | None,
        A: Array,
        activation: Activation,
        need_dX: bool = True,
    ) -> tuple[Array | None, Array, Array]:
        """Twin of `layers.dense.dense_vjp`: dZ may overwrite dA; dW and db are in the gradient."""
        g, shape, bf16 = functor(activation), product_shape(X, W), self.in_bf16(W)
        takes = self.takes(X, W) and self.takes(A, W) and self.takes(dA, W)
        if shape is None or shape != A.shape or not takes:
            options = {"xp": self._xp, "need_dX": need_dX, **self._definition}
            return dense_vjp(dA, X, W, Z, A, activation, **options)
        dW, db = self._homes.get(id(W), (None, None))
        read: Any = Z if activation.reads_Z or (A.dtype == BF16 and Z is not None) else A
        if g is None or len(shape) > 2 or not (is_on_device(W, dA) and read.flags.c_contiguous):
            dZ = activation.vjp(dA, Z, A, xp=self._xp)
            db = self._xp.sum(dZ, axis=-2, keepdims=True)
        elif self._summed is not None and dA is self._summed[0] and db is self._summed[1]:
            dZ = dA
        else:
            if db is None:
                db = self.empty((1, W.shape[1]), W.dtype)
            dZ = self.derive(dA, read, g, db, bf16)
        if dW is None:
            dW = self.empty((*shape[:-2], *W.shape[-2:]), W.dtype)
        dZ = self.factor(dZ, bf16)
        self.product(self.factor(X, bf16).swapaxes(-1, -2), dZ, dW)
        dX = None
        if need_dX:
            dX = self.empty((*shape[:-1], W.shape[-2]), W.dtype)
            self.product(dZ, self.factor(W, bf16).swapaxes(-1, -2), dX)
        return dX, dW, db

    def derive(self, dA: Array, read: Array, g: tuple[str, float], db: Array, bf16: bool) -> Array:
        """dZ = dA g'(Z), written over dA or in bfloat16, and db, its sum over examples.

        read: Z where the derivative reads it, else A.
        """
        N, H = dA.shape
        columns = -(-H // LANES)
        strips = max(1, min(BLOCKS // columns, -(-N // LANES)))
        half = self.alone(dA.shape) if bf16 else None
        T = TYPES[dA.dtype.name]
        kernel("derive", T, HALF if read.dtype == BF16 else T, g[0])(
            (columns, strips),
            (LANES, THREADS // LANES),
            (
                *(dA, read, 0 if half is None else half, db, N, H, g[1]),
                *self.sums(strips * H, dA.dtype, columns),
            ),
        )
        return dA if half is None else half

    def softmax_cross_entropy(
        self, Z: Array, Y: Array, weights: Array | None = None, label_smoothing: float = 0.0
    ) -> tuple[Array, Array]:
        """Twin of `losses.softmax_cross_entropy`, for class numbers of one network.

        With few classes it also writes db of the layer that has given Z, if that is its own dZ.
        """
        if (
            label_smoothing
            or Z.ndim != 2
            or not Z.size
            or Y.dtype.name not in KINDS
            or not Y.flags.c_contiguous
            or not is_on_device(Z, *(() if weights is None else (weights,)))
        ):
            return softmax_cross_entropy(
                Z, Y, weights, xp=self._xp, label_smoothing=label_smoothing
            )
        (N, K), dtype = Z.shape, Z.dtype
        value, dZ, half, db = cupy.empty((), dtype), self.empty((N, K), dtype), 0, 0
        if K <= LANES and self._output is not None and Z is self._output[0]:
            db = self._output[1]
            self._summed = dZ, db
            half = self.with_half(dZ)
        lanes = min(LANES, 1 << (K - 1).bit_length())
        blocks = min(FEW if K <= LANES else BLOCKS, -(-N * lanes // THREADS))
        kernel("softmax_cross_entropy", TYPES[dtype.name])(
            (blocks,),
            (THREADS,),
            (
                *(Z, Y, KINDS[Y.dtype.name], 0 if weights is None else weights),
                *(value, dZ, half, db, N, K, lanes, *self.sums(blocks * (LANES + 1), dtype)),
            ),
        )
        return value, dZ

    def l2_penalty(
        self, value: Array, grads: Array, params: Array, l2: float, n_weights: int
    ) -> tuple[Array, Array]:
        """Twin of `network.l2_penalty`: added to the arrays that are given."""
        value = cupy.asarray(value)
        if params.ndim > 1 or not is_on_device(params, grads, value):
            return l2_penalty(value, grads, params, l2, n_weights, xp=self._xp)
        grid, block = line(n_weights, params.itemsize)
        kernel("l2_penalty", TYPES[params.dtype.name])(
            grid,
            block,
            (value, grads, params, n_weights, float(l2), *self.sums(grid[0], params.dtype)),
        )
        return value, grads

    def dropout(self, X: Array, key: Key, rate: float) -> tuple[Array, Array]:
        """Twin of `layers.dropout.dropout`; the step of the key may also be a number."""
        if not X.size or not is_on_device(X):
            key = key._replace(step=cupy.asarray(key.step, dtype=np.int32))
            return dropout(X, key, rate, xp=self._xp)
        keep = 1.0 - rate
        step = (key.step, 0) if isinstance(key.step, cupy.ndarray) else (0, int(key.step))
        A, M = self.empty(X.shape, X.dtype), self.empty(X.shape, X.dtype)
        kernel("dropout", TYPES[X.dtype.name])(
            *line(X.size, X.itemsize),
            (
                *(X, A, M, self.with_half(A), X.size, key.seed * GOLDEN % 2**31, *step, key.path),
                *(round(keep * 2**BITS), keep),
            ),
        )
        return A, M

    def alone(self, shape: tuple[int, ...]) -> Array:
        """An array of bfloat16 for what products alone read."""
        half = self.empty(shape, BF16)
        self._halves[id(half)] = half, half
        return half

    def with_half(self, x: Array) -> Any:
        """Where a kernel that makes x, for products, writes it in bfloat16 as well; or 0."""
        if not self.in_bf16(x):
            return 0
        half = self.empty(x.shape, BF16)
        self._halves[id(x)] = x, half
        return half

    def update(
        self, name: str, vectors: Any, changing: Any, fixed: Any = (), n: int | None = None
    ) -> bool:
        """One launch over (the first n elements of) flat vectors, with numbers that may be on the
        device and numbers of the host. False, having done nothing, for arrays of other kinds."""
        first = vectors[0]
        pairs = [pair(x, first) for x in changing]
        if first.ndim != 1 or not is_on_device(*vectors) or None in pairs:
            return False
        if not all(isinstance(x, float | int) for x in fixed):
            return False
        half: tuple[Any, ...] = ()
        if n is None:  # all of them, in bfloat16 too
            n = first.shape[0]
            self._fresh = first is self._params and self._copy is not None
            half = (self._copy if self._fresh else 0,)
        else:
            self._fresh = False
        if n:
            kernel(name, TYPES[first.dtype.name])(
                *line(n, first.itemsize),
                (*vectors, *half, n, *(x for p in pairs if p for x in p), *map(float, fixed)),
            )
        return True

    def gradient_descent_update(self, params: Array, grads: Array, rate: Any) -> Array:
        """Twin of `optimizers.gradient_descent_update`, in place."""
        if self.update("gradient_descent", (params, grads), (rate,)):
            return params
        return optimizers.gradient_descent_update(params, grads, rate, xp=self._xp)

    def momentum_update(
        self, params: Array, grads: Array, velocity: Array, rate: Any, beta: Any
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.momentum_update`, in place."""
        if self.update("momentum", (params, grads, velocity), (rate,), (beta,)):
            return params, velocity
        return optimizers.momentum_update(params, grads, velocity, rate, beta, xp=self._xp)

    def nesterov_update(
        self, params: Array, grads: Array, velocity: Array, rate: Any, beta: Any
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.nesterov_update`, in place."""
        if self.update("nesterov", (params, grads, velocity), (rate,), (beta,)):
            return params, velocity
        return optimizers.nesterov_update(params, grads, velocity, rate, beta, xp=self._xp)

    def rmsprop_update(
        self, params: Array, grads: Array, square: Array, rate: Any, beta: Any, epsilon: float
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.rmsprop_update`, in place."""
        if self.update("rmsprop", (params, grads, square), (rate,), (beta, epsilon)):
            return params, square
        return optimizers.rmsprop_update(params, grads, square, rate, beta, epsilon, xp=self._xp)

    def adam_update(
        self,
        params: Array,
        grads: Array,
        mu: Array,
        nu: Array,
        rate: Any,
        beta_1: Any,
        beta_2: Any,
        correction_1: Any,
        correction_2: Any,
        epsilon: float,
    ) -> tuple[Array, Array, Array]:
        """Twin of `optimizers.adam_update`, in place."""
        changing, fixed = (rate, correction_1, correction_2), (beta_1, beta_2, epsilon)
        if self.update("adam", (params, grads, mu, nu), changing, fixed):
            return params, mu, nu
        rules = rate, beta_1, beta_2, correction_1, correction_2, epsilon
        return optimizers.adam_update(params, grads, mu, nu, *rules, xp=self._xp)

    def shrink_weights(self, params: Array, amount: Any, n_weights: int) -> Array:
        """Twin of `optimizers.shrink_weights`, in place."""
        if self.update("shrink", (params,), (amount,), n=n_weights):
            return params
        return optimizers.shrink_weights(params, amount, n_weights, xp=self._xp)

    def clip_by_global_norm(self, grads: Array, max_norm: Any) -> Array:
        """Twin of `optimizers.clip_by_global_norm`, in place: a launch for the norm, and one."""
        most = pair(max_norm, grads)
        if grads.ndim > 1 or not is_on_device(grads) or most is None:
            return optimizers.clip_by_global_norm(grads, max_norm, xp=self._xp)
        T, n = TYPES[grads.dtype.name], grads.shape[0]
        factor = self._buffer("factor", (), grads.dtype)
        grid, block = line(n, grads.itemsize)
        kernel("clip_factor", T)(
            grid, block, (grads, n, *most, factor, *self.sums(grid[0], grads.dtype))
        )
        kernel("clip", T)(grid, block, (grads, n, factor))
        return grads
