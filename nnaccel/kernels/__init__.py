"""The speed floor: for each operation of the maths floor, what runs it fastest on a library.

A kernel has the name, the parameters and the meaning of a function of floor 1, is tested equal to
it, and is kept only while a benchmark shows that it pays.
"""

from nnaccel.typing import Namespace, Ops


def bind(xp: Namespace) -> Ops:
    """The operations of a library, with the kernels that exist for it.

    They own a workspace that each step uses again: take a new set for every training run and
    thread. What one call of `forward` or `value_and_grad` returns may be overwritten by the next.
    """
    if xp.__name__ in ("numpy", "array_api_compat.numpy"):
        from nnaccel.kernels._numpy import kernels
        try:
            from nnaccel.kernels._numba import FastWorkspace
            return Ops(xp, FastWorkspace().kernels())
        except ImportError:
            pass

        return Ops(xp, kernels())
    return Ops(xp)
