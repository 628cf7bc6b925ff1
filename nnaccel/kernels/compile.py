"""Making a training step fast on its library: as it is on most, `jit` on JAX, and whole epochs."""

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from typing import Any, NamedTuple, TypeVar

import array_api_compat as compat

from nnaccel.maths.minibatch import bounds
from nnaccel.maths.network import Layout
from nnaccel.maths.optimizers import State
from nnaccel.typing import Array, Namespace

R = TypeVar("R")


class SplitParams(NamedTuple):
    """A flat vector (..., P) in the pieces that `split_params` has made of it."""

    of: tuple[Array, ...]


def split_params(xp: Namespace, places: Layout) -> Callable[[Any], Any]:
    """What makes of a vector, or of the vectors of a `State`, what epochs keep between them.

    On JAX that are their parts, one for each array of a large network; see `nnaccel.kernels.jax`.
    Elsewhere it is the same vector. What is cut already stays as it is.
    """
    if xp.__name__ != "jax.numpy":
        return lambda kept: kept
    from nnaccel.kernels.jax import param_slices

    def pieces(kept: Any) -> Any:
        if isinstance(kept, SplitParams):
            return kept
        if isinstance(kept, State):
            return kept._replace(slots=tuple(map(pieces, kept.slots)))
        return SplitParams(tuple(kept[..., part] for part in param_slices(places)))

    return pieces


def join_params(kept: Any) -> Any:
    """The inverse of `split_params`: the vector (..., P), or the `State` with such vectors."""
    if isinstance(kept, State):
        return kept._replace(slots=tuple(map(join_params, kept.slots)))
    if not isinstance(kept, SplitParams):
        return kept
    if len(kept.of) == 1:
        return kept.of[0]
    return compat.array_namespace(*kept.of).concat(kept.of, axis=-1)


def compiled_once(build: Callable[..., R]) -> Callable[..., R]:
    """build(xp, ...), giving on JAX the same object again for the same arguments.

    JAX takes longer to compile a run than most epochs take, and what it has compiled owns no
    memory, so the next run may use it. Elsewhere kernels own a workspace, and are built anew.
    """
    again = lru_cache(maxsize=32)(build)

    @wraps(build)
    def either(xp: Namespace, *args: Any) -> R:
        return (again if xp.__name__ == "jax.numpy" else build)(xp, *args)

    return either


def compile_step(
    function: Callable[..., Any], xp: Namespace, *, donate: tuple[int, ...] = ()
) -> Any:
    """The function, compiled where the library compiles; it must be pure and free of Python
    branches on array values. `donate` numbers the arguments whose memory the result may take:
    the caller must not use them again."""
    if xp.__name__ == "jax.numpy":
        import jax

        return jax.jit(function, donate_argnums=donate)
    return function


def for_each_seed(
    epoch_of: Callable[[Any], Callable[..., R]], xp: Namespace
) -> Callable[[int], Callable[..., R]]:
    """epoch_of: seed -> epoch, with one program for all seeds where the library compiles.

    epoch: as of `compile_epoch`. The program takes the seed as an int32 array ().
    """
    if xp.__name__ != "jax.numpy":
        return epoch_of

    def program(params: Array, state: Any, data: Any, order: Array, seed: Array) -> R:
        return epoch_of(seed)(params, state, data, order)

    compiled = compile_step(program, xp, donate=(0, 1))
    # No more than 31 bits of a seed count; see `nnaccel.maths.random.bernoulli`.
    return lambda seed: partial(compiled, seed=xp.asarray(seed % 2**31, dtype=xp.int32))


def compile_epoch(
    step: Callable[..., Any],
    xp: Namespace,
    places: Layout,
    batch_size: int,
    whole: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """The epoch (params, state, data, order) -> (params, state, records) made of that step.

    step: (params, state, data, index) -> (params, state, record), pure, of flat vectors in which
    arrays lie at these places.   order: (N,), the examples in the order in which the epoch visits
    them, `batch_size` a step and the rest in a last one.   records: (n_steps, ...).   params and
    state are as `split_params` leaves them, and donated.   whole: an epoch that replaces the steps
    where it does not return None; see `nnaccel.kernels.backend.fused_epoch`.
    """
    if xp.__name__ == "jax.numpy":
        return _scanned(step, xp, places, batch_size)

    def epoch(params: Array, state: Any, data: Any, order: Array) -> tuple[Array, Any, Array]:
        if whole is not None and (done := whole(params, state, data, order)) is not None:
            return done
        records = []
        for start, stop in bounds(order.shape[0], batch_size):
            params, state, record = step(params, state, data, order[start:stop])
            records.append(record)
        return params, state, xp.stack(records)

    return epoch


def _scanned(
    step: Callable[..., Any], xp: Namespace, places: Layout, batch_size: int
) -> Callable[..., Any]:
    """The epoch on JAX: one call, in which the steps of full batches are a `lax.scan`."""
    import jax

    pieces = split_params(xp, places)

    def step_on_pieces(params: Any, state: Any, data: Any, index: Array) -> tuple[Any, Any, Array]:
        params, state, record = step(join_params(params), join_params(state), data, index)
        return pieces(params), pieces(state), record

    def epoch(params: Any, state: Any, data: Any, order: Array) -> tuple[Any, Any, Array]:
        n_full = order.shape[0] // batch_size
        full, rest = order[: n_full * batch_size], order[n_full * batch_size :]

        def body(kept: tuple[Any, Any], index: Array) -> Any:
            params, state, record = step_on_pieces(*kept, data, index)
            return (params, state), record

        records = []
        if n_full:
            (params, state), first = jax.lax.scan(
                body, (params, state), xp.reshape(full, (n_full, batch_size))
            )
            records.append(first)
        if rest.shape[0]:
            params, state, last = step_on_pieces(params, state, data, rest)
            records.append(last[None])
        return params, state, xp.concat(records)

    return jax.jit(epoch, donate_argnums=(0, 1))
