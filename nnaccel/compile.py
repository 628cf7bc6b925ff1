"""Making a function of arrays fast on its library: as it is on most, `jit` on JAX."""

from collections.abc import Callable
from typing import Any

from nnaccel.typing import Namespace


def compile_step(function: Callable[..., Any], xp: Namespace, *, donate: tuple[int, ...] = ()) -> Any:
    """The function, compiled where the library compiles; it must be pure and free of Python
    branches on array values. `donate` numbers the arguments whose memory the result may take:
    the caller must not use them again."""
    if xp.__name__ == "jax.numpy":
        import jax

        return jax.jit(function, donate_argnums=donate)
    return function
