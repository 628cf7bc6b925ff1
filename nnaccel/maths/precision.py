"""The precision of matrix products: how many digits of their operands count.

Weights, gradients, moments and losses are float32 throughout. A product in a lower precision takes
its operands with fewer digits and adds up in float32, which is what the matrix units of GPUs do
several times faster than products of whole float32 numbers.
"""

from nnaccel.arguments import find
from nnaccel.typing import Array, Namespace

PRECISIONS = {"float32": 23, "tf32": 10, "bf16": 7}
"""Digits of the significand after the leading one; all have the eight-bit exponent of float32."""


def check_precision(precision: object, dtype: str) -> None:
    """ValueError for a precision that there is not, and for a lower one with another dtype."""
    if find("precision", precision, PRECISIONS) < PRECISIONS["float32"] and dtype != "float32":
        raise ValueError(
            f"precision={precision!r} is for dtype float32, got {dtype}: it shortens the operands "
            "of float32 products; choose dtype='float32', or leave precision out"
        )


def rounded(x: Array, precision: str, *, xp: Namespace) -> Array:
    """x to the nearest number of that precision, ties to even; infinities and NaN stay.

    x: float32, of any shape. What rounds up beyond the largest number becomes infinite, and numbers
    below the normal range keep the spacing that they have there, as in IEEE formats of that size.
    ValueError for another dtype, and for a precision that there is not. Where a library makes such
    small numbers zero, so it does here; a compiler that fuses the operations needs a kernel for it.
    Source: Rump, Ultimately fast accurate summation, SIAM J. Sci. Comput. 31 (2009), for `unit`.
    """
    if precision == "float32":
        return x
    check_precision(precision, str(x.dtype).rpartition(".")[2])
    one, finite = xp.ones_like(x), xp.isfinite(x)
    y = xp.where(finite, x, xp.zeros_like(x))
    scale = xp.where(xp.abs(y) > 2.0**60, 2.0**64 * one, one)
    y = y / scale  # exact, and leaves room for what follows
    # The power of two at or below |y|, but none below the normal range.
    wide = (2.0**23 + 1.0) * y
    unit = xp.maximum(xp.abs(wide - (1.0 - 2.0**-24) * wide), 2.0**-126 * one)
    # A float32 number of this size has just those digits of y that are kept, and takes no others.
    shift = (1.5 * 2.0 ** (23 - PRECISIONS[precision])) * unit
    y = (y + shift) - shift
    return xp.where(finite, xp.copysign(y * scale, x), x)
