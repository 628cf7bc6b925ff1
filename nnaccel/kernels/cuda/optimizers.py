"""Updates of the whole parameter vector on a device, each in one launch and in place."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from nnaccel.kernels.cuda.bfloat16 import Bfloat16Copies
from nnaccel.kernels.cuda.device_buffers import DeviceBuffers
from nnaccel.kernels.cuda.early_update import EarlyUpdate
from nnaccel.kernels.cuda.launch import are_contiguous, kernel, pointer, scalar, vector_grid
from nnaccel.kernels.cuda.signatures import TYPES
from nnaccel.maths import optimizers
from nnaccel.typing import Array, Namespace

NO_END = (0, 0, 0, 0, 0, 0)  # arguments for an update that does not end a captured step

# The kernel of each rule, and the indices of the numbers that may be arrays on the device.
RULES = {
    optimizers.gradient_descent_update: ("gradient_descent", (0,)),
    optimizers.momentum_update: ("momentum", (0,)),
    optimizers.nesterov_update: ("nesterov", (0,)),
    optimizers.rmsprop_update: ("rmsprop", (0,)),
    optimizers.adam_update: ("adam", (0, 3, 4)),
}

Launch: TypeAlias = Callable[..., None]  # called with the arguments that end a step, or without


class OptimizerKernels:
    """The update rules of `nnaccel.maths.optimizers`, for vectors (P,), or (K, P) for K networks.

    The learning rate, Adam's corrections, the factor of the decay and the norm may be numbers of
    the host or arrays () on the device. The definition clips the gradients of several networks, and
    handles numbers and arrays that a kernel does not support.
    """

    def __init__(self, xp: Namespace, buffers: DeviceBuffers, copies: Bfloat16Copies) -> None:
        self._xp, self._buffers, self._copies = xp, buffers, copies
        self.early = EarlyUpdate(buffers, copies, self._launch_of)
        self._holds = False
        self._held: Launch | None = None  # the held launch of an update

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
        return self._update(optimizers.gradient_descent_update, (params, grads), (rate,))

    def momentum_update(
        self, params: Array, grads: Array, velocity: Array, rate: Any, beta: Any
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.momentum_update`, in place."""
        return self._update(optimizers.momentum_update, (params, grads, velocity), (rate, beta))

    def nesterov_update(
        self, params: Array, grads: Array, velocity: Array, rate: Any, beta: Any
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.nesterov_update`, in place."""
        return self._update(optimizers.nesterov_update, (params, grads, velocity), (rate, beta))

    def rmsprop_update(
        self, params: Array, grads: Array, square: Array, rate: Any, beta: Any, epsilon: float
    ) -> tuple[Array, Array]:
        """Twin of `optimizers.rmsprop_update`, in place."""
        vectors, numbers = (params, grads, square), (rate, beta, epsilon)
        return self._update(optimizers.rmsprop_update, vectors, numbers)

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
        numbers = rate, beta_1, beta_2, correction_1, correction_2, epsilon
        return self._update(optimizers.adam_update, (params, grads, mu, nu), numbers)

    def _update(self, rule: Callable, vectors: tuple[Array, ...], numbers: tuple) -> Any:
        """The result of an update rule, with one launch, in place.

        vectors: (params, grads, *slots), each (P,) or (K, P).   numbers: the other arguments.
        The definition computes the result where the kernel does not support the arguments.
        """
        self.release()
        params, _, *slots = vectors
        hole = self.early.join()
        copy = self._copies.begin_update(params, whole=True)
        launch = self._launch_of(rule, vectors, numbers, copy, hole)
        if launch is None:
            self._copies.begin_update(params, whole=False)  # the definition does not write the copy
            return rule(*vectors, *numbers, xp=self._xp)
        if params.size and self._holds:
            self._held = launch
        elif params.size:
            launch()
        return (params, *slots) if slots else params

    def _launch_of(
        self,
        rule: Callable,
        vectors: Sequence[Array],
        numbers: tuple,
        copy: Array | None,
        hole: tuple[int, int] = (0, 0),
    ) -> Launch | None:
        """The launch of a rule over these vectors; None if its kernel does not support them.

        vectors: (params, grads, *slots).   numbers: the other arguments of the rule.
        copy: the bfloat16 copy of the parameters to write, or None.
        hole: the index of the first element to skip, and the number of elements to skip.
        """
        if rule not in RULES:
            return None
        (name, changing), params = RULES[rule], vectors[0]
        pairs = self._numbers(vectors, [numbers[i] for i in changing])
        fixed = [x for i, x in enumerate(numbers) if i not in changing]
        if pairs is None or not all(isinstance(x, float | int) for x in fixed):
            return None
        args = (*vectors, pointer(copy), params.size, *hole, *pairs, *map(float, fixed))
        grid = vector_grid(params.size - hole[1], params.itemsize)

        def launch(end: tuple[Any, ...] = NO_END) -> None:
            kernel(name, TYPES[params.dtype.name])(*grid, (*args, *end))

        return launch

    def hold(self) -> None:
        """Holds the launch of the next update until `release`, which has the arguments that end
        the step."""
        self._holds, self._held = True, None

    def release(self, end: tuple[Any, ...] = NO_END) -> bool:
        """Launches the held update; returns False if none is held.

        end: the arguments with which the update ends a captured step.
        """
        held, self._held = self._held, None
        if held is not None:
            held(end)
        return held is not None

    def hold_no_more(self) -> None:
        """Launches all later updates immediately."""
        self._holds = False
        self.early.forget()

    def _numbers(self, vectors: Sequence[Array], changing: Sequence) -> list[Any] | None:
        """The numbers as pairs of kernel arguments; None if a number or a vector is not supported.

        vectors: contiguous, (P,) or (K, P).
        """
        if vectors[0].ndim not in (1, 2) or not are_contiguous(*vectors):
            return None
        pairs = [scalar(x, vectors[0]) for x in changing]
        return None if None in pairs else [x for pair in pairs if pair for x in pair]

    def shrink_weights(self, params: Array, amount: Any, n_weights: int) -> Array:
        """Twin of `optimizers.shrink_weights`, in place."""
        self.release()  # launches a held update first
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
        """Twin of `optimizers.clip_by_global_norm`, in place, with two launches: the norm, then the
        product with the clipping factor."""
        self.release()
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
