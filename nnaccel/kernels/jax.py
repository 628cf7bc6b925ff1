"""Kernels for JAX, which spare XLA copies between the flat vector and its parts.

XLA fuses elementwise operations by itself. But it copies arrays that are sliced from a vector for
the matrix products, and gradients that are joined to a vector. So functions of the whole vector
work part by part here, one part for each array of the network. XLA simplifies a slice of joined
parts to that part, so no slicing or joining is left in a step.

XLA runs independent operations at the same time. But it assigns the memory of dead values to new
results beforehand, in its own order, and an operation whose memory is assigned so waits for the
readers of the old value. Where that costs time, a condition that is `never` true makes a result
wait, or keeps a value alive for longer.

Every product states its precision: JAX's default for float32 is IEEE on a processor and TF32 on a
GPU.
Shapes are those of the definitions: X (..., B, D), W (..., D, H), Z and A (..., B, H), params (...,
P).
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from nnaccel.devices.libraries import ROWS
from nnaccel.kernels.definition import Definition, Epoch, Run
from nnaccel.kernels.params import SplitParams, join_params, map_vectors
from nnaccel.maths import optimizers
from nnaccel.maths.activations import Activation
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.minibatch import minibatch, of_networks
from nnaccel.maths.network import Layout, Slot, l2_penalty, layout, leaves, views, weigh
from nnaccel.maths.optimizers import State
from nnaccel.maths.precision import PRECISIONS
from nnaccel.maths.random import words
from nnaccel.ops import Ops
from nnaccel.typing import Array, Namespace

log = logging.getLogger("nnaccel")

SMALL = 2**16  # parameters: below it a copy of the vector costs less than a call for each part


UPDATES = (
    optimizers.gradient_descent_update,
    optimizers.momentum_update,
    optimizers.nesterov_update,
    optimizers.rmsprop_update,
)


class JAXBackend(Definition):
    """JAX's backend: an epoch is one compiled call, whose full minibatches are a `lax.scan`.

    Compiling a run takes longer than most epochs, and a compiled program owns no memory. So equal
    runs share one program, whatever their seeds.
    """

    takes_slices: ClassVar[bool] = True

    def ieee_products(self, precision: str = "float32") -> AbstractContextManager[Any]:
        """The context for products without a kernel, which would be TF32 on a GPU. Kernels state
        their own precision."""
        return jax.default_matmul_precision("highest")

    def operations(self, precision: str = "float32") -> Ops:
        Definition.operations(self, precision)  # which checks the precision
        return Ops(self.xp, kernels(self.xp, precision), "kernels of JAX")

    def explain(self, run: Run) -> str:
        return f"JAX, one compiled scan, {self.operations(run.precision).name}"

    def compile_epoch(
        self, make_step: Callable[[Run], Callable[..., Any]], run: Run, ops: Ops
    ) -> Callable[[int], Epoch]:
        split = self.split_params(layout(run.network))

        def program(params: Any, state: State, data: Any, order: Array, seed: Array) -> Any:
            step = make_step(run._replace(seed=seed))

            def step_on_parts(kept: tuple[Any, State], index: Array) -> Any:
                params, state, record = step(*map(join_params, kept), data, index)
                return (split(params), split(state)), record

            return scan_epoch(step_on_parts, params, state, order, run.batch_size)

        compiled = jax.jit(program, donate_argnums=(0, 1))
        log.debug("epoch: %s", self.explain(run))
        return lambda seed: partial(compiled, seed=jnp.asarray(words(seed), dtype=jnp.int32))

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(function)

    def once(self, build: Callable[..., Any], *key: Any) -> Any:
        return built_once(build, *key)

    def wait(self, records: Any) -> None:
        started = time.perf_counter()
        while not records.is_ready():  # pauses grow with the time waited, to 3 % of it
            time.sleep((time.perf_counter() - started) / 32 + 1e-4)

    def split_params(self, layout: Layout) -> Callable[[Any], Any]:
        """The function that splits the vectors (..., P) of large networks, one part for each
        array."""
        slices = param_slices(layout)

        def split(vector: Any) -> SplitParams:
            if isinstance(vector, SplitParams):
                return vector
            return SplitParams(tuple(vector[..., part] for part in slices))

        return jax.jit(partial(map_vectors, split))


@lru_cache(maxsize=32)
def built_once(build: Callable[..., Any], *key: Any) -> Any:
    """build(*key), cached for the next equal run."""
    return build(*key)


def scan_epoch(
    step: Callable[..., Any], params: Any, state: State, order: Array, batch_size: int
) -> tuple[Any, State, Array]:
    """The steps of an epoch; those of full minibatches are one `lax.scan`.

    step: ((params, state), index) -> ((params, state), record).
    """
    n_full, records = order.shape[0] // batch_size, []
    kept: tuple[Any, Any] = params, state
    if n_full:
        full = jnp.reshape(order[: n_full * batch_size], (n_full, batch_size))
        kept, record = jax.lax.scan(step, kept, full)
        records.append(record)
    if order.shape[0] % batch_size:
        kept, record = step(kept, order[n_full * batch_size :])
        records.append(record[None])
    params, state = kept
    return params, state, jnp.concat(records)


def param_slices(places: Layout) -> list[slice]:
    """The slice of each array of the network in the flat vector, in ascending order; one slice for
    a small network."""
    if places.size < SMALL:
        return [slice(0, places.size)]
    bounds = sorted((slot.start, slot.stop) for slot in leaves(places.slots, Slot))
    return [slice(start, stop) for start, stop in bounds]


def kernels(xp: Namespace, precision: str = "float32") -> dict[Callable, Callable]:
    """A new set of kernels, as the entries of an `Ops`; xp is for the definitions."""
    parts, layer = Parts(xp), Products(xp, precision)
    return {
        minibatch: take_minibatch,
        dense: layer.dense,
        dense_vjp: layer.dense_vjp,
        views: parts.views,
        l2_penalty: parts.l2_penalty,
        weigh: parts.weigh,
        optimizers.shrink_weights: parts.shrink_weights,
        optimizers.adam_update: parts.updated_by(adam),
        optimizers.lion_update: parts.updated_by(lion),
        **{update: parts.updated_by(update) for update in UPDATES},
    }


class Parts:
    """The parts of the flat vector, and kernels that apply the definitions to each part."""

    def __init__(self, xp: Namespace) -> None:
        self._xp = xp
        self._parts: list[slice] = []
        self._known_last = 0

    def views(self, params: Array, places: Layout) -> Any:
        """Twin of `network.views`. It is called before the other kernels and sets the parts."""
        self._parts = param_slices(places)
        # The first bias, whose gradient needs dX of every layer; without biases the first weight.
        self._known_last = places.n_weights % places.size
        return views(params, places, xp=self._xp)

    def updated_by(self, update: Callable[..., Any]) -> Callable[..., Any]:
        """Twin of an update rule, which applies it to every part."""

        def twin(params: Array, grads: Array, *others: Any) -> Any:
            def part_of(x: Any, part: slice) -> Any:
                return x[..., part] if getattr(x, "shape", None) == params.shape else x

            done = [
                update(
                    self._delayed(params[..., part], grads, part),
                    *(part_of(x, part) for x in (grads, *others)),
                    xp=self._xp,
                )
                for part in self._parts
            ]
            if isinstance(done[0], tuple):
                return tuple(map(self._join, zip(*done, strict=True)))
            return self._join(done)

        return twin

    def _delayed(self, part_of_params: Array, grads: Array, part: slice) -> Array:
        """The same part of the parameters, delayed until the gradient of the first bias is known.

        So new weights overwrite the old ones. Otherwise XLA does not see that dX of the layer is
        known by then, and copies the old weights first, in one thread. The delay also keeps the
        next dW out of the memory of this part's gradient, where it would wait for the update.
        """
        if len(self._parts) == 1:
            return part_of_params
        # Single numbers, since sums would be separate calls.
        known, own = grads[..., self._known_last], grads[..., part.start]
        return self._xp.where(self._xp.any(never(known) | never(own)), 0.0, part_of_params)

    def shrink_weights(self, params: Array, amount: Any, n_weights: int) -> Array:
        """Twin of `optimizers.shrink_weights`."""
        return self._join(
            optimizers.shrink_weights(
                params[..., part], amount, _weights_in(part, n_weights), xp=self._xp
            )
            for part in self._parts
        )

    def l2_penalty(
        self, value: Array, grads: Array, params: Array, l2: Any, n_weights: int
    ) -> tuple[Array, Array]:
        """Twin of `network.l2_penalty`."""
        done = []
        for part in self._parts:
            inside = _weights_in(part, n_weights)
            value, piece = l2_penalty(
                value, grads[..., part], params[..., part], l2, inside, xp=self._xp
            )
            done.append(piece)
        return value, self._join(done)

    def weigh(self, grads: Array, share: float) -> Array:
        """Twin of `network.weigh`."""
        return self._join(weigh(grads[..., part], share, xp=self._xp) for part in self._parts)

    def _join(self, pieces: Any) -> Array:
        return self._xp.concat(list(pieces), axis=-1)


class Products:
    """The kernels of dense layers, whose products have one precision."""

    def __init__(self, xp: Namespace, precision: str) -> None:
        self._xp, self._product = xp, PRODUCTS[precision]

    def dense(self, X: Array, W: Array, b: Array, activation: Activation) -> tuple[Array, Array]:
        """Twin of `layers.dense.dense`."""
        Z = self._product(X, W) + b
        return Z, activation.forward(Z, xp=self._xp)

    def dense_vjp(
        self,
        dA: Array,
        X: Array,
        W: Array,
        Z: Array,
        A: Array,
        activation: Activation,
        need_dX: bool = True,
    ) -> tuple[Array | None, Array, Array]:
        """Twin of `layers.dense.dense_vjp`."""
        dZ = activation.vjp(dA, Z, A, xp=self._xp)
        # Otherwise dW gets the memory of A, and waits for the dW of the next layer, which reads A.
        wait = self._xp.any(never(A[..., :1, :1]), axis=(-2, -1), keepdims=True)
        dW = self._xp.where(wait, 0.0, self._product(X.mT, dZ))
        dX = self._product(dZ, W.mT) if need_dX else None
        return dX, dW, jnp.sum(dZ, -2, keepdims=True)


def never(x: Array) -> Array:
    """False (...), which XLA cannot know before it knows x (...)."""
    return (x > 0) & (x < 0)


ieee = partial(jnp.matmul, precision="highest")


def tf32(X: Array, Y: Array) -> Array:
    """X Y in TF32: by a GPU's matrix units where it has them, else with rounded operands."""
    return jax.lax.platform_dependent(
        X,
        Y,
        cuda=partial(jnp.matmul, precision="tensorfloat32"),
        default=lambda X, Y: ieee(rounded(X, "tf32"), rounded(Y, "tf32")),
    )


def bf16(X: Array, Y: Array) -> Array:
    """X Y with bfloat16 operands and float32 sums."""
    # XLA may remove a conversion to bfloat16 and back, but not this rounding.
    X, Y = rounded(X, "bf16"), rounded(Y, "bf16")
    if X.ndim == Y.ndim == 2:
        return of_bfloat16(X, Y)
    # On a processor XLA refuses a float32 result for a stack of bfloat16 matrices.
    return jax.lax.platform_dependent(X, Y, cpu=ieee, default=of_bfloat16)


def of_bfloat16(X: Array, Y: Array) -> Array:
    X, Y = X.astype(jnp.bfloat16), Y.astype(jnp.bfloat16)
    return jnp.matmul(X, Y, precision="default", preferred_element_type=jnp.float32)


def rounded(x: Array, precision: str) -> Array:
    """Twin of `precision.rounded`."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=PRECISIONS[precision])


# Precision -> the product of two matrices.
PRODUCTS: dict[str, Callable[[Array, Array], Array]] = {
    "float32": ieee,
    "tf32": tf32,
    "bf16": bf16,
}


def take_minibatch(
    X: Array, Y: Array, weights: Array | None, index: Array, dtype: Any
) -> tuple[Array, Array, Array | None]:
    """Twin of `minibatch.minibatch`, without a mask for rows out of range.

    Each of several devices gathers its share of the rows, and XLA computes everything that follows
    on the device of the rows. Only the gradient is added up among the devices. X (R, n, D) are R
    devices with rows of their own, and so are Y and weights; the index counts among those of a
    device.
    """
    if X.ndim == 3:
        rows = partial(_of_each_device, index)
    else:
        rows = partial(_rows_at, _shared_out(index))
    return rows(X).astype(dtype), rows(Y), None if weights is None else of_networks(rows(weights))


def _rows_at(index: Array, array: Array) -> Array:
    return array.at[index].get(mode="promise_in_bounds")


def _of_each_device(index: Array, array: Array) -> Array:
    """The rows (B, ...) of an array (R, n, ...), of which each device gathers those it has."""
    B, R = index.shape[0], array.shape[0]
    each = -(-B // R)
    index = _shared_out(jnp.pad(index, (0, R * each - B)).reshape(R, each))
    found = jax.vmap(_rows_at)(index, array)
    return _shared_out(found.reshape(R * each, *array.shape[2:]))[:B]


def _shared_out(array: Array) -> Array:
    """An array whose first axis several devices share out, where there are several."""
    if ROWS not in jax.sharding.get_abstract_mesh().axis_names:
        return array
    return jax.lax.with_sharding_constraint(array, jax.sharding.PartitionSpec(ROWS))


def adam(
    params: Array,
    grads: Array,
    mu: Array,
    nu: Array,
    rate: Array,
    beta_1: Any,
    beta_2: Any,
    correction_1: Array,
    correction_2: Array,
    epsilon: float,
    *,
    xp: Namespace,
) -> tuple[Array, Array, Array]:
    """Twin of `optimizers.adam_update`, with one division instead of three."""
    # m / c1 / (sqrt(v / c2) + epsilon) = (root / c1) m / (sqrt(v) + root epsilon)
    root = xp.sqrt(correction_2)
    mu = beta_1 * mu + (1.0 - beta_1) * grads
    nu = beta_2 * nu + (1.0 - beta_2) * (grads * grads)
    step = (rate * root / correction_1) * mu / (xp.sqrt(nu) + root * epsilon)
    return params - step, mu, nu


def lion(
    params: Array, grads: Array, mu: Array, rate: Array, beta_1: Any, beta_2: Any, *, xp: Namespace
) -> tuple[Array, Array]:
    """Twin of `optimizers.lion_update`. mu is not overwritten before the step has read it."""
    params, _ = optimizers.lion_update(params, grads, mu, rate, beta_1, beta_2, xp=xp)
    mu = xp.where(never(params), 0.0, mu)
    return params, beta_2 * mu + (1.0 - beta_2) * grads


def _weights_in(part: slice, n_weights: int) -> int:
    """The number of weights in a part of the vector, which holds all weights first."""
    return max(0, min(part.stop, n_weights) - part.start)
