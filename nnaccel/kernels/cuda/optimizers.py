"""Updates of the whole parameter vector on a device, each in one launch and in place."""

from collections.abc import Callable
from functools import partial
from typing import Any

from nnaccel.kernels.cuda.bfloat16 import Bfloat16Copies
from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.kernels.cuda.launch import are_contiguous, kernel, pointer, scalar, vector_grid
from nnaccel.kernels.cuda.signatures import TYPES
from nnaccel.maths import optimizers
from nnaccel.typing import Array, Namespace

NO_END = (0, 0, 0, 0, 0, 0)  # arguments of an update that ends no captured step


class OptimizerKernels:
    """The rules of `nnaccel.maths.optimizers`, for vectors of a network, or of several. Clipping of
    several, and numbers that a kernel does not take, are left to the definition."""

    def __init__(self, xp: Namespace, buffers: DeviceBuffers, copies: Bfloat16Copies) -> None:
        self._xp, self._buffers, self._copies = xp, buffers, copies
        self._holds = False
        self._held: Callable[[tuple[Any, ...]], None] | None = None  # the launch of an update

    def kernels(self) -> dict[Callable, Callable]:
        return {
            optimizers.gradient_descent_update: self.gradient_descent_update,
            optimizers.momentum_update: self.momentum_update,
            optimizers.nesterov_update: self.nesterov_update,
            optimizers.rmsprop_update: self.rmsprop_update,
            optimizers.adam_update: self.adam_update,
            optimizers.shrink_weights: self.shrink_weights,
            optimizers.clip_by_global_norm: self.clip_by_global_norm,
        }

    def gradient_descent_update(self, params: Array, grads: Array, rate: Any) -> Array:
        """Twin of `optimizers.gradient_descent_update`, in place."""
        if self._update("gradient_descent", (params, grads), (rate,)):
            return params
        return optimizers.gradient_descent_update(params, grads, rate, xp=self._xp)

    def momentum_update(
        self, params: Array, grads: Array, velocity: Array, rate: Any, beta: Any
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.momentum_update`, in place."""
        if self._update("momentum", (params, grads, velocity), (rate,), (beta,)):
            return params, velocity
        return optimizers.momentum_update(params, grads, velocity, rate, beta, xp=self._xp)

    def nesterov_update(
        self, params: Array, grads: Array, velocity: Array, rate: Any, beta: Any
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.nesterov_update`, in place."""
        if self._update("nesterov", (params, grads, velocity), (rate,), (beta,)):
            return params, velocity
        return optimizers.nesterov_update(params, grads, velocity, rate, beta, xp=self._xp)

    def rmsprop_update(
        self, params: Array, grads: Array, square: Array, rate: Any, beta: Any, epsilon: float
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.rmsprop_update`, in place."""
        if self._update("rmsprop", (params, grads, square), (rate,), (beta, epsilon)):
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
        """Twin of `optimizers.adam_update`, with its parameters, in place."""
        changing, fixed = (rate, correction_1, correction_2), (beta_1, beta_2, epsilon)
        if self._update("adam", (params, grads, mu, nu), changing, fixed):
            return params, mu, nu
        return optimizers.adam_update(
            params, grads, mu, nu, rate,
            beta_1, beta_2, correction_1, correction_2, epsilon, xp=self._xp,
        )  # fmt: skip

    def _update(
        self, name: str, vectors: tuple[Array, ...], changing: tuple, fixed: tuple = ()
    ) -> bool:
        """One launch over the vectors (params, ...). False, having done nothing, for arrays and
        numbers that the kernel does not take.

        changing: numbers that may lie on the device.   fixed: numbers of the host.
        """
        params = vectors[0]
        numbers = self._numbers(vectors, changing)
        if numbers is None or not all(isinstance(x, float | int) for x in fixed):
            return False
        copy, n = self._copies.begin_update(params, whole=True), params.size
        if n:
            args = (*vectors, pointer(copy), n, *numbers, *map(float, fixed))
            launch = partial(self._launch, name, params, args)
            if self._holds:
                self._held = launch
            else:
                launch(NO_END)
        return True

    def _launch(
        self, name: str, params: Array, args: tuple[Any, ...], end: tuple[Any, ...]
    ) -> None:
        grid = vector_grid(params.size, params.itemsize)
        kernel(name, TYPES[params.dtype.name])(*grid, (*args, *end))

    def hold(self) -> None:
        """The next update waits for `release`, by which time it is known what a step ends with."""
        self._holds, self._held = True, None

    def release(self, end: tuple[Any, ...] = NO_END) -> bool:
        """Launches the update that waits; False where none does.   end: the arguments by which it
        ends a captured step."""
        held, self._held = self._held, None
        if held is not None:
            held(end)
        return held is not None

    def hold_no_more(self) -> None:
        """Updates are launched as they come."""
        self._holds = False

    def _numbers(self, vectors: tuple[Array, ...], changing: tuple) -> list[Any] | None:
        """Numbers as pairs of arguments; None for other arrays than vectors in one piece. An update
        that waits comes before what asks for them."""
        self.release()
        if vectors[0].ndim not in (1, 2) or not are_contiguous(*vectors):
            return None
        pairs = [scalar(x, vectors[0]) for x in changing]
        return None if None in pairs else [x for pair in pairs if pair for x in pair]

    def shrink_weights(self, params: Array, amount: Any, n_weights: int) -> Array:
        """Twin of `optimizers.shrink_weights`, in place."""
        numbers = self._numbers((params,), (amount,))
        if numbers is None:
            return optimizers.shrink_weights(params, amount, n_weights, xp=self._xp)
        self._copies.begin_update(params, whole=False)
        if n_weights and params.size:
            P = params.shape[-1]
            grid, block = vector_grid(n_weights, params.itemsize)
            launch = kernel("shrink_weights", TYPES[params.dtype.name])
            launch((*grid, 1, params.size // P), block, (params, n_weights, P, *numbers))
        return params

    def clip_by_global_norm(self, grads: Array, max_norm: Any) -> Array:
        """Twin of `optimizers.clip_by_global_norm`, in place: a launch for the norm, and one."""
        numbers = self._numbers((grads,), (max_norm,)) if grads.ndim == 1 else None
        if numbers is None:
            return optimizers.clip_by_global_norm(grads, max_norm, xp=self._xp)
        T, n = TYPES[grads.dtype.name], grads.shape[0]
        factor = self._buffers.named("factor", (), grads.dtype)
        grid, block = vector_grid(n, grads.itemsize)
        partials, counter = self._buffers.partial_sums(grid[0], grads.dtype)
        kernel("clip_factor", T)(grid, block, (grads, n, *numbers, factor, partials, counter))
        kernel("clip", T)(grid, block, (grads, n, factor))
        return grads
