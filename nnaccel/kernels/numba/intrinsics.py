"""Machine instructions that have no Python expression, as functions for compiled code."""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

X86 = llvmlite.binding.get_default_triple().startswith(("x86_64", "i386", "i586", "i686", "amd64"))
LINE = 64  # bytes of a cache line
FLUSH = 0x8040  # bits of x86's MXCSR register: denormal numbers are read as 0 and written as 0


def llvm_intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's `intrinsic`: makes a function for compiled code from one that generates its
    instructions and has an additional first parameter."""
    return intrinsic(function)


def register_symbol(name: str, address: Any) -> None:
    """Lets compiled code call the C function at that address.

    Compiled code refers to it by name, since code kept on the disk also serves other processes,
    where the address differs.
    """
    llvmlite.binding.add_symbol(name, address)


@llvm_intrinsic
def prefetch(typing: Any, X: Any, i: Any, d: Any) -> Any:
    """Prefetches the cache line of X[i, d]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, *[ir.IntType(32)] * 3])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        line = builder.bitcast(place(context, builder, signature.args[0], *args), byte)
        to_read, in_all_caches, data = (integer(value, 32) for value in (0, 3, 1))
        builder.call(function, [line, to_read, in_all_caches, data])
        return context.get_dummy_value()

    return types.void(X, types.intp, types.intp), generate


@llvm_intrinsic
def atomic_add(typing: Any, array: Any, i: Any) -> Any:
    """array[i] += 1, atomically; returns the old value."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count = place(context, builder, signature.args[0], *args)
        return builder.atomic_rmw("add", count, integer(1), "seq_cst")

    return types.int64(array, types.intp), generate


@llvm_intrinsic
def atomic_load(typing: Any, array: Any, i: Any) -> Any:
    """array[i], read atomically: all writes that preceded its last change are visible."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count = place(context, builder, signature.args[0], *args)
        return builder.load_atomic(count, "seq_cst", 8)

    return types.int64(array, types.intp), generate


@llvm_intrinsic
def denormals_as_zero(typing: Any) -> Any:
    """Makes this thread treat denormal numbers as 0. Returns the former mode, which
    `floating_point` restores.

    Arithmetic with denormal numbers takes an x86 processor a hundred times as long, and the
    gradients of a network that has learned its examples are full of them. Other processors are not
    slowed down, so their mode stays.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not X86:
            return integer(0, 32)
        word = cgutils.alloca_once(builder, ir.IntType(32))
        _control(builder, "stmxcsr", word)
        old = builder.load(word)
        builder.store(builder.or_(old, integer(FLUSH, 32)), word)
        _control(builder, "ldmxcsr", word)
        return old

    return types.uint32(), generate


@llvm_intrinsic
def floating_point(typing: Any, mode: Any) -> Any:
    """Restores the floating-point mode of this thread."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if X86:
            _control(builder, "ldmxcsr", cgutils.alloca_once_value(builder, args[0]))
        return context.get_dummy_value()

    return types.void(types.uint32), generate


def _control(builder: Any, instruction: str, word: Any) -> None:
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{instruction}")
    builder.call(function, [builder.bitcast(word, pointer)])


def place(context: Any, builder: Any, kind: Any, array: Any, *index: Any) -> Any:
    """The address of an element of an array of that type."""
    made = context.make_array(kind)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, kind, made, index)


def integer(value: int, bits: int = 64) -> Any:
    return ir.Constant(ir.IntType(bits), value)
