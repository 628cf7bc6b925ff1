"""Kernels for CuPy: what is not a matrix product in as few launches as can be.

On a GPU a launch costs more than the work of most elementwise operations, and each temporary is a
journey through memory. The kernels of `cuda.cu` do in one launch what would be five or ten; matrix
products are cuBLASLt's, and write where their result belongs. Nothing here waits for the device,
but for the first product of each kind, whose algorithms may be timed; see `_cublaslt.py`.
"""

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import cupy
import numpy as np

from nnaccel import optimizers
from nnaccel.activations import Activation
from nnaccel.batches import minibatch
from nnaccel.kernels._cublaslt import WORKSPACE, Plan, address, plan_of
from nnaccel.kernels._cuda import CASTS, FUNCTORS, KINDS, LANES, SOURCE, THREADS, TYPES
from nnaccel.kernels._numpy import dropout_vjp_in_place
from nnaccel.kernels._places import Buffers
from nnaccel.kernels._plans import activation_of
from nnaccel.layers.dense import dense, dense_vjp
from nnaccel.layers.dropout import dropout, dropout_vjp
from nnaccel.losses import softmax_cross_entropy
from nnaccel.network import Layout, flatten, l2_penalty, views
from nnaccel.random import BITS, GOLDEN, Key
from nnaccel.typing import Array, Namespace

# Blocks of a launch, at most: eight a multiprocessor of a large device. The same number on every
# device gives the same order of sums, and so the same bits.
BLOCKS = 1024
FEW = 128  # blocks of a launch whose results one block adds up one by one

# Examples times inputs, up to which a dense layer of at most LANES units is a kernel of our own:
# a small product waits for launches, and cuBLAS is better at a large one.
SMALL = 2**20


def kernels(xp: Namespace, precision: str = "float32") -> dict[Callable, Callable]:
    """A new set of kernels, as the entries of an `Ops`; xp is for the definitions.

    precision: what products of float32 matrices are computed in, "float32" or "tf32".
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
    """The functor of `cuda.cu` for an activation, and its parameter; None where there is none."""
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


def fits(*arrays: Array) -> bool:
    """Whether they are contiguous, and of the one floating type of the first."""
    dtype = arrays[0].dtype
    return dtype.name in TYPES and all(x.dtype == dtype and x.flags.c_contiguous for x in arrays)


def product_shape(X: Array, Y: Array) -> tuple[int, ...] | None:
    """The shape of X Y for matrices, or stacks of them along one axis, of one floating type; None
    for other arrays, and where nothing is to be multiplied."""
    if X.dtype != Y.dtype or X.dtype.name not in TYPES or not X.size or not Y.size:
        return None
    if {X.ndim, Y.ndim} - {2, 3} or X.shape[-1] != Y.shape[-2]:
        return None
    counts = {x.shape[0] for x in (X, Y) if x.ndim == 3} - {1}
    if len(counts) > 1:
        return None
    lead = (counts.pop() if counts else 1,) if 3 in (X.ndim, Y.ndim) else ()
    return *lead, X.shape[-2], Y.shape[-1]


class Workspace(Buffers):
    """The buffers of one training run on a device, and the kernels that write into them.

    precision: what products of float32 matrices are computed in, "float32" or "tf32".
    """

    def __init__(self, xp: Namespace, precision: str = "float32") -> None:
        super().__init__(cupy)
        self._xp = xp
        self._tf32 = precision == "tf32"
        self._plans: dict[Any, Plan | None] = {}  # by the products that they are for
        self._room = 0  # where the workspace of products is
        self._counters: Array | None = None  # zeros
        self._output: tuple[Array, Array] | None = None  # Z of the last layer, and where its db is
        self._summed: tuple[Array, Array] | None = None  # dZ of the loss, and its sum in that db

    def kernels(self) -> dict[Callable, Callable]:
        return {
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

    def views(self, params: Array, places: Layout) -> Any:
        """Twin of `network.views`; see `Buffers.views`."""
        self._output = self._summed = None
        return super().views(params, places)

    def minibatch(
        self, X: Array, Y: Array, weights: Array | None, index: Array, dtype: Any
    ) -> tuple[Array, Array, Array | None]:
        """Twin of `batches.minibatch`."""
        dtype, B = np.dtype(dtype), index.shape[0]
        if (
            not (B and X.size and Y.size)
            or X.strides[1] != X.itemsize
            or X.dtype.name not in CASTS
            or Y.itemsize > 8
            or not (Y.flags.c_contiguous and index.flags.c_contiguous)
            or index.dtype != np.int64
            or dtype.name not in TYPES
            or (weights is not None and not (fits(weights) and weights.dtype == dtype))
        ):
            return minibatch(X, Y, weights, index, dtype, xp=self._xp)
        D, row = X.shape[1], Y.shape[1:]
        rows = self._buffer("X", (B, D), dtype), self._buffer("Y", (B, *row), Y.dtype)
        if weights is None:
            pairs = 0, 0
        else:
            pairs = weights, self._buffer("weights", (B,), dtype)
        kernel("minibatch", TYPES[dtype.name], CASTS[X.dtype.name])(
            *tiles(B, D, dtype.itemsize),
            (
                *(X, X.strides[0] // X.itemsize, index, rows[0], B, D),
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
            *(X.shape, X.strides, x % 16, X.dtype.char, Y.shape, Y.strides, y % 16),
            *(out.strides, to % 16, out.dtype.char),
        )
        if key not in self._plans:
            room = self._buffer("products", (WORKSPACE,), np.uint8)
            self._room = address(room)
            self._plans[key] = plan_of(X, Y, out, room, tf32=self._tf32)
        plan = self._plans[key]
        if plan is not None:
            plan(x, y, to, self._room, cupy.cuda.get_current_stream().ptr)
        elif out.flags.c_contiguous:
            cupy.matmul(X, Y, out=out)
        else:
            out[...] = cupy.matmul(X, Y)
        return out

    def dense(self, X: Array, W: Array, b: Array, activation: Activation) -> tuple[Any, Array]:
        """Twin of `layers.dense.dense`; Z is None where the activation does not read it."""
        g, shape = functor(activation), product_shape(X, W)
        if shape is None or b.dtype != W.dtype:
            return dense(X, W, b, activation, xp=self._xp)
        Z = self.empty(shape, W.dtype)
        if g is None or len(shape) > 2 or not fits(W, X, b):
            Z = self.product(X, W, Z) + b
            return Z, activation.forward(Z, xp=self._xp)
        (N, D), H, T = X.shape, W.shape[1], TYPES[W.dtype.name]
        A = self.empty(shape, W.dtype) if activation.reads_Z else Z
        if H <= LANES and N * D <= SMALL:
            rows = THREADS // LANES // 2
            kernel("narrow", T, g[0])(
                (-(-N // rows),),
                (LANES, rows),
                (X, W, b, Z, A, N, D, H, g[1], int(self._tf32)),
            )
        else:
            self.product(X, W, Z)
            kernel("activate", T, g[0])(*tiles(N, H, W.itemsize), (Z, b, A, N, H, g[1]))
        if g[0] == "Identity" and id(W) in self._homes:
            self._output = A, self._homes[id(W)][1]
        return (Z if activation.reads_Z else None), A

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
        """Twin of `layers.dense.dense_vjp`: dZ overwrites dA; dW and db are in the gradient."""
        g, read = functor(activation), (Z, A) if activation.reads_Z else (A,)
        shape = product_shape(X, W)
        if shape is None or shape != A.shape or any(x.dtype != W.dtype for x in (dA, A)):
            return dense_vjp(dA, X, W, Z, A, activation, xp=self._xp, need_dX=need_dX)
        dW, db = self._homes.get(id(W), (None, None))
        if g is None or len(shape) > 2 or not fits(W, X, dA, *read):
            dA = activation.vjp(dA, Z, A, xp=self._xp)
            db = self._xp.sum(dA, axis=-2, keepdims=True)
        elif self._summed is None or dA is not self._summed[0] or db is not self._summed[1]:
            if db is None:
                db = self.empty((1, W.shape[1]), W.dtype)
            self.derive(dA, Z if activation.reads_Z else None, A, g, db)
        if dW is None:
            dW = self.empty((*shape[:-2], *W.shape[-2:]), W.dtype)
        self.product(X.swapaxes(-1, -2), dA, dW)
        dX = None
        if need_dX:
            dX = self.product(
                dA, W.swapaxes(-1, -2), self.empty((*shape[:-1], W.shape[-2]), W.dtype)
            )
        return dX, dW, db

    def derive(self, dA: Array, Z: Array | None, A: Array, g: tuple[str, float], db: Array) -> None:
        """dZ = dA g'(Z), written over dA, and db, its sum over examples."""
        N, H = A.shape
        columns = -(-H // LANES)
        strips = max(1, min(BLOCKS // columns, -(-N // LANES)))
        kernel("derive", TYPES[A.dtype.name], g[0])(
            (columns, strips),
            (LANES, THREADS // LANES),
            (
                *(dA, 0 if Z is None else Z, A, db, N, H, g[1]),
                *self.sums(strips * H, A.dtype, columns),
            ),
        )

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
            or not fits(Z, *(() if weights is None else (weights,)))
        ):
            return softmax_cross_entropy(
                Z, Y, weights, xp=self._xp, label_smoothing=label_smoothing
            )
        (N, K), dtype = Z.shape, Z.dtype
        value, dZ, db = cupy.empty((), dtype), self.empty((N, K), dtype), 0
        if K <= LANES and self._output is not None and Z is self._output[0]:
            db = self._output[1]
            self._summed = dZ, db
        lanes = min(LANES, 1 << (K - 1).bit_length())
        blocks = min(FEW, -(-N * lanes // THREADS))
        kernel("softmax_cross_entropy", TYPES[dtype.name])(
            (blocks,),
            (THREADS,),
            (
                *(Z, Y, KINDS[Y.dtype.name], 0 if weights is None else weights),
                *(value, dZ, db, N, K, lanes, *self.sums(blocks * (LANES + 1), dtype)),
            ),
        )
        return value, dZ

    def l2_penalty(
        self, value: Array, grads: Array, params: Array, l2: float, n_weights: int
    ) -> tuple[Array, Array]:
        """Twin of `network.l2_penalty`: added to the arrays that are given."""
        value = cupy.asarray(value)
        if params.ndim > 1 or not fits(params, grads, value):
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
        if not X.size or not fits(X):
            key = key._replace(step=cupy.asarray(key.step, dtype=np.int32))
            return dropout(X, key, rate, xp=self._xp)
        keep = 1.0 - rate
        step = (key.step, 0) if isinstance(key.step, cupy.ndarray) else (0, int(key.step))
        A, M = self.empty(X.shape, X.dtype), self.empty(X.shape, X.dtype)
        kernel("dropout", TYPES[X.dtype.name])(
            *line(X.size, X.itemsize),
            (
                *(X, A, M, X.size, key.seed * GOLDEN % 2**31, *step, key.path),
                *(round(keep * 2**BITS), keep),
            ),
        )
        return A, M

    def update(
        self, name: str, vectors: Any, changing: Any, fixed: Any = (), n: int | None = None
    ) -> bool:
        """One launch over (the first n elements of) flat vectors, with numbers that may be on the
        device and numbers of the host. False, having done nothing, for arrays of other kinds."""
        first = vectors[0]
        pairs = [pair(x, first) for x in changing]
        if first.ndim != 1 or not fits(*vectors) or None in pairs:
            return False
        if not all(isinstance(x, float | int) for x in fixed):
            return False
        n = first.shape[0] if n is None else n
        if n:
            kernel(name, TYPES[first.dtype.name])(
                *line(n, first.itemsize),
                (*vectors, n, *(x for p in pairs if p for x in p), *map(float, fixed)),
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
        if grads.ndim > 1 or not fits(grads) or most is None:
            return optimizers.clip_by_global_norm(grads, max_norm, xp=self._xp)
        T, n = TYPES[grads.dtype.name], grads.shape[0]
        factor = self._buffer("factor", (), grads.dtype)
        grid, block = line(n, grads.itemsize)
        kernel("clip_factor", T)(
            grid, block, (grads, n, *most, factor, *self.sums(grid[0], grads.dtype))
        )
        kernel("clip", T)(grid, block, (grads, n, factor))
        return grads
