"""The operations of one array library, with kernels where it has them."""

from collections.abc import Callable
from functools import partial

from nnaccel.typing import Namespace


class Ops(dict[Callable, Callable]):
    """The operations of one library: ``ops[f]`` is what runs the floor-1 function ``f``.

    A function without a kernel of its own falls through to its definition with ``xp`` bound, so
    a new layer or loss works on every library before anybody has written a kernel for it.
    The look-up is one dictionary access on the hot path.
    """

    def __init__(self, xp: Namespace, kernels: dict[Callable, Callable] | None = None) -> None:
        super().__init__(kernels or {})
        self.xp = xp

    def __missing__(self, function: Callable) -> Callable:
        self[function] = bound = partial(function, xp=self.xp)
        return bound
