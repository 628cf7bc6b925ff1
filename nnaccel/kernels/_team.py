"""A team of threads in compiled code: how it is called together, where it meets, how it multiplies.

A member is a thread that runs code without Python's lock. Its products are SciPy's BLAS, the one
that such code can call.
"""

import ctypes
import sys
import threading
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  # loaded here, so that its threads can be limited
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

from nnaccel.kernels._numba import compiled
from nnaccel.typing import Array

ARRIVED, SENT_HOME = 0, 1  # what a meeting (2,) counts

# How often a member looks for the others before it naps: for half a millisecond, which is longer
# than they differ and than a nap. Something else has their processor then, and may have this one.
LOOKS = 1_000_000


def together(function: Callable[..., None], size: int, *args: Any) -> None:
    """Calls function(rank, size, meeting, *args) in so many threads, of which this one is rank 0.

    They last no longer than the call, and no forked child can miss them. Where the machine has no
    more threads this one goes alone: by then nobody can have gone beyond the first meeting.
    """
    meeting, errors = np.zeros(2, np.int64), []

    def member(rank: int) -> None:
        try:
            function(rank, size, meeting, *args)
        except BaseException as error:  # such as MemoryError: the others would wait for ever
            meeting[SENT_HOME] = 1
            errors.append(error)

    team = [threading.Thread(target=member, args=(rank,), daemon=True) for rank in range(1, size)]
    try:
        try:
            for thread in team:
                thread.start()
        except RuntimeError:
            dismiss(team, meeting)
            function(0, 1, meeting, *args)
        else:
            function(0, size, meeting, *args)
    finally:
        dismiss(team, meeting)
    if errors:
        raise errors[0]


def dismiss(team: list[threading.Thread], meeting: Array) -> None:
    """Ends the threads that still wait for somebody, and waits for those that do not."""
    meeting[SENT_HOME] = 1
    for thread in team:
        if thread.ident is not None:
            thread.join()


def _sleep_of_system() -> tuple[Any, int]:
    """A function that sleeps, and the shortest time that it takes, in its unit."""
    if sys.platform == "win32":
        return ctypes.WinDLL("kernel32").Sleep, 1  # milliseconds
    return ctypes.CDLL(None).usleep, 50  # microseconds


# Functions of C by name: compiled code that Numba has kept on the disk asks for them by name, since
# their addresses are others in every process.
sleep, NAP = _sleep_of_system()
SYMBOLS = {
    "nnaccel_sleep": ctypes.cast(sleep, ctypes.c_void_p).value,
    **{
        f"nnaccel_{name}": get_cython_function_address("scipy.linalg.cython_blas", name)
        for name in ("sgemm", "dgemm")
    },
}
for name, address in SYMBOLS.items():
    llvmlite.binding.add_symbol(name, address)

nap = types.ExternalFunction("nnaccel_sleep", types.void(types.uint32))


def generated(function: Callable[..., Any]) -> Any:
    """Numba's `intrinsic`: a function of compiled code, from one that generates its instructions
    and has a parameter more."""
    return intrinsic(function)


@generated
def gemm(
    typing: Any, a: Any, b: Any, m: Any, n: Any, k: Any, alpha: Any, A: Any, lda: Any, B: Any,
    ldb: Any, C: Any, ldc: Any,
) -> Any:  # fmt: skip
    """C = alpha A B, by columns: the function of the BLAS, which takes all by its address.

    sgemm, or dgemm where alpha is float64."""
    letter, number, address = types.uint8, types.int32, types.uintp
    number_of, name = alpha, "nnaccel_dgemm" if alpha == types.float64 else "nnaccel_sgemm"

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()

        def by_address(value: Any) -> Any:
            return builder.bitcast(cgutils.alloca_once_value(builder, value), pointer)

        a, b, m, n, k, alpha, A, lda, B, ldb, C, ldc = [
            builder.inttoptr(value, pointer) if kind == address else by_address(value)
            for kind, value in zip(signature.args, args, strict=True)
        ]
        zero = by_address(context.get_constant(number_of, 0.0))
        kind = ir.FunctionType(ir.VoidType(), [pointer] * 13)
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(function, [a, b, m, n, k, alpha, A, lda, B, ldb, zero, C, ldc])
        return context.get_dummy_value()

    parameters = letter, letter, number, number, number, alpha, *[address, number] * 3
    return types.void(*parameters), generate


@generated
def add_1(typing: Any, array: Any, i: Any) -> Any:
    """array[i] += 1 as one operation, for threads that do so at once; gives the old one."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature, args)
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(array, types.intp), generate


@generated
def latest(typing: Any, array: Any, i: Any) -> Any:
    """array[i] as the others have left it, with all that they wrote before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_place(context, builder, signature, args), "seq_cst", 8)

    return types.int64(array, types.intp), generate


def _place(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return cgutils.get_item_pointer(context, builder, signature.args[0], array, [args[1]])


@compiled
def meet(meeting: Array, size: int) -> bool:
    """Waits until all members have arrived; False for a team that has been sent home."""
    if size == 1:
        return True
    # Nobody comes a second time before all have come once: whole teams have met before.
    all_here = (add_1(meeting, ARRIVED) // size + 1) * size
    for _ in range(LOOKS):
        if latest(meeting, ARRIVED) >= all_here:
            return True
    while latest(meeting, ARRIVED) < all_here:
        if latest(meeting, SENT_HOME):
            return False
        nap(np.uint32(NAP))
    return True


@compiled
def product(X: Array, Y: Array, scale: Any, out: Array) -> None:
    """out = scale X Y, each of whose rows or columns are without a gap; those of `out` are rows."""
    if not out.size:
        return
    # To the BLAS, which has columns, these are out^T = Y^T X^T.
    of_Y, of_X, of_out = lies(Y), lies(X), lies(out)
    gemm(
        of_Y[0], of_X[0], out.shape[1], out.shape[0], X.shape[1], scale,
        Y.ctypes.data, of_Y[1], X.ctypes.data, of_X[1], out.ctypes.data, of_out[1],
    )  # fmt: skip


@compiled
def lies(x: Array) -> tuple[Any, Any]:
    """How x lies for the BLAS: the letter for rows or columns, and the distance between them."""
    if x.strides[1] == x.itemsize:
        return np.uint8(ord("N")), max(x.strides[0] // x.itemsize, x.shape[1])
    return np.uint8(ord("T")), max(x.strides[1] // x.itemsize, x.shape[0])
