"""Instructions on the vectors of a processor: the inner loops of a matrix product.

They are generated for each number of rows or vectors, which are so many registers.
"""

import os
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils, imputils

from nnaccel.kernels._instructions import LINE, X86, generated, integer, place, prefetch


def processor() -> tuple[int, int]:
    """The bytes of a vector, and the rows of a tile: two vectors of each, so that the sums take
    most of the registers. Zeros for an unknown processor."""
    of_host = llvmlite.binding.get_host_cpu_features().flatten()
    features = set((os.environ.get("NUMBA_CPU_FEATURES") or of_host).split(","))
    if X86 and "+avx512f" in features:
        return 64, 12  # of 32 registers
    if X86 and {"+avx2", "+fma"} <= features:
        return 32, 6  # of 16
    return 0, 0


BYTES, ROWS = processor()
AHEAD = 8  # terms, so many of which are on their way to where they are needed
UNROLLED = 4  # terms of a turn of the innermost loop, whose own instructions count beside them


@generated
def strided(typing: Any, X: Any) -> Any:
    """The same array as one of any strides: so there is one product to compile for each dtype."""
    array = X.copy(layout="A")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return imputils.impl_ret_borrowed(context, builder, array, args[0])

    return array(X), generate


def moves(width: int) -> Any:
    """move(X, i, k, panels, p, to): panels[p, to + j] = X[i + j, k] for so many j, for two vectors
    of them where the width is 0. It moves whole vectors, the last perhaps beyond that."""

    @generated
    def move(typing: Any, X: Any, i: Any, k: Any, panels: Any, p: Any, to: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, target, vector = _sides(context, builder, signature, args)
            lanes = vector.count
            for first in range(0, width or 2 * lanes, lanes):
                value = builder.load(_at(builder, source, first, vector), align=1)
                builder.store(value, _at(builder, target, first, vector), align=1)
            return context.get_dummy_value()

        return types.void(X, *[types.intp] * 2, panels, *[types.intp] * 2), generate

    return move


def turns(width: int) -> Any:
    """turn(X, i, k, panels, p, to): the same for as many terms as a vector has numbers, which lie
    beside each other in X: panels[p, to + width l + j] = X[i + j, k + l]."""

    @generated
    def turn(typing: Any, X: Any, i: Any, k: Any, panels: Any, p: Any, to: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, target, vector = _sides(context, builder, signature, args)
            lanes = vector.count
            rows = width or 2 * lanes
            between = _distance(context, builder, signature.args[0], args[0])
            # What a vector has beyond the last row is overwritten with what belongs there: so
            # the first rows come last.
            for first in reversed(range(0, rows, lanes)):
                values = [ir.Constant(vector, None)] * lanes
                for j in range(min(lanes, rows - first)):
                    row = _moved(builder, source, builder.mul(between, integer(first + j)))
                    values[j] = builder.load(_at(builder, row, 0, vector), align=1)
                for term, value in enumerate(_transposed(builder, values)):
                    there = _at(builder, target, rows * term + first, vector)
                    builder.store(value, there, align=1)
            return context.get_dummy_value()

        return types.void(X, *[types.intp] * 2, panels, *[types.intp] * 2), generate

    return turn


def _transposed(builder: Any, values: list[Any]) -> list[Any]:
    """As many vectors as each has numbers: halves of pairs change places, then quarters, ..."""
    lanes, values = len(values), list(values)
    half = lanes // 2
    while half:
        low = [j + lanes - half if j & half else j for j in range(lanes)]
        high = [j + lanes if j & half else j + half for j in range(lanes)]
        for j in range(lanes):
            if not j & half:
                x, y = values[j], values[j + half]
                values[j] = _shuffled(builder, x, y, low)
                values[j + half] = _shuffled(builder, x, y, high)
        half //= 2
    return values


def tiles_of(rows: int) -> Any:
    """tile(x, y, K, scale, out, more): so many rows of out = scale X Y and two vectors of each, of
    K terms from a panel of X and one of Y, a multiple of UNROLLED; `more`: added to what is there.
    """

    @generated
    def tile(typing: Any, x: Any, y: Any, K: Any, scale: Any, out: Any, more: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind_x, kind_y, _, _, kind_out, _ = signature.args
            x, y, K, scale, out, more = args
            zero = integer(0)
            vector = ir.VectorType(scale.type, BYTES // context.get_abi_sizeof(scale.type))
            corner = place(context, builder, kind_out, out, zero, zero)
            between = _distance(context, builder, kind_out, out)
            places = []
            for r in range(rows):
                row = _moved(builder, corner, builder.mul(between, integer(r)))
                places += [_at(builder, row, first, vector) for first in (0, vector.count)]
            for there in places:
                prefetch(builder, there)

            x = place(context, builder, kind_x, x, zero)
            y = place(context, builder, kind_y, y, zero)
            factor = _repeated(builder, scale, vector)
            sums = [builder.fmul(s, factor) for s in _over_terms(builder, x, y, K, rows, vector)]
            with builder.if_else(more) as (then, otherwise):
                with then:
                    for value, there in zip(sums, places, strict=True):
                        total = builder.fadd(value, builder.load(there, align=1))
                        builder.store(total, there, align=1)
                with otherwise:
                    for value, there in zip(sums, places, strict=True):
                        builder.store(value, there, align=1)
            return context.get_dummy_value()

        return types.void(x, y, types.intp, scale, out, types.boolean), generate

    return tile


def _over_terms(builder: Any, x: Any, y: Any, K: Any, rows: int, vector: Any) -> list[Any]:
    """The sums over K terms of so many rows of X times two vectors of Y, from their panels: what
    takes all the time of a product."""
    lanes = vector.count
    before, loop, end = builder.block, *map(builder.append_basic_block, ("terms", "sums"))
    builder.branch(loop)
    builder.position_at_end(loop)

    def changing(first: Any) -> Any:
        value = builder.phi(first.type)
        value.add_incoming(first, before)
        return value

    left, x_k, y_k = changing(K), changing(x), changing(y)
    sums = [changing(ir.Constant(vector, None)) for _ in range(2 * rows)]
    new, x_next, y_next = sums, x_k, y_k
    for _ in range(UNROLLED):
        ys = []
        for first in (0, lanes):
            ys.append(builder.load(_at(builder, y_next, first, vector), align=1))
            if first * BYTES // lanes % LINE == 0:
                prefetch(builder, builder.gep(y_next, [integer(AHEAD * 2 * lanes + first)]))
        factors = [builder.load(builder.gep(x_next, [integer(r)])) for r in range(rows)]
        pairs = [(_repeated(builder, factor, vector), value) for factor in factors for value in ys]
        # Two operations that may become one: all processors of `processor` have it.
        terms = [builder.fmul(*pair, flags=["contract"]) for pair in pairs]
        new = [builder.fadd(*two, flags=["contract"]) for two in zip(new, terms, strict=True)]
        x_next = builder.gep(x_next, [integer(ROWS)])
        y_next = builder.gep(y_next, [integer(2 * lanes)])
    rest = builder.sub(left, integer(UNROLLED))
    for old, value in zip([left, x_k, y_k, *sums], [rest, x_next, y_next, *new], strict=True):
        old.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed(">", rest, integer(0)), loop, end)
    builder.position_at_end(end)
    return new


def _sides(context: Any, builder: Any, signature: Any, args: Any) -> tuple[Any, Any, Any]:
    """Where X[i, k] and panels[p, to] are, and the type of a vector of their numbers."""
    source = place(context, builder, signature.args[0], *args[:3])
    target = place(context, builder, signature.args[3], *args[3:])
    number = source.type.pointee
    return source, target, ir.VectorType(number, BYTES // context.get_abi_sizeof(number))


def _distance(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """The bytes between two rows."""
    made = context.make_array(kind)(context, builder, array)
    return cgutils.unpack_tuple(builder, made.strides)[0]


def _moved(builder: Any, pointer: Any, n_bytes: Any) -> Any:
    byte = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    return builder.bitcast(builder.gep(byte, [n_bytes]), pointer.type)


def _at(builder: Any, pointer: Any, number: int, vector: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [integer(number)]), vector.as_pointer())


def _repeated(builder: Any, value: Any, vector: Any) -> Any:
    none = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(none, value, integer(0, 32))
    return _shuffled(builder, first, none, [0] * vector.count)


def _shuffled(builder: Any, x: Any, y: Any, order: list[int]) -> Any:
    kind = ir.VectorType(ir.IntType(32), len(order))
    return builder.shuffle_vector(x, y, ir.Constant(kind, order))


move_rows, move_vectors = moves(ROWS), moves(0)
turn_rows, turn_vectors = turns(ROWS), turns(0)
whole, two_thirds, one_third = (tiles_of(ROWS * part // 3) for part in (3, 2, 1))
