"""Activations and their derivatives in compiled code, in the layout of the notes.

Z, A and dA are (H, B), one example per column, so that inner loops run over contiguous examples
even where a network has fewer units than a vector register has lanes. Each function applies dropout
in the same pass. The next layer reads A with zeros for dropped elements. The scale 1 / (1 - rate)
is a factor of the products with A, so that g' can still be computed from A.
"""

from typing import Any

from nnaccel.kernels.numba.dropout import ALL, drop_unit
from nnaccel.kernels.numba.exp_log import exp
from nnaccel.kernels.numba.jit import compiled
from nnaccel.typing import Array

IDENTITY, RELU, LEAKY_RELU, TANH, SIGMOID = range(5)
ACTIVATIONS = {
    "identity": IDENTITY,
    "relu": RELU,
    "leaky_relu": LEAKY_RELU,
    "tanh": TANH,
    "sigmoid": SIGMOID,
}

Range = tuple[int, int]  # start and stop
Mask = tuple[Any, Any, Array]  # dropout's key and threshold, and the examples' numbers (B,)


@compiled
def activate(
    Z: Array, b: Array, code: int, slope: Any, mask: Mask, units: Range, examples: Range
) -> None:
    """Z := g(Z + b) with dropout, for a range of units and a range of examples.

    Z: (H, B).   b: (H,).   code, slope: the activation.   mask: the dropout after these units.
    """
    number = Z.dtype.type
    one, zero = number(1), number(0)
    (first, last), (key, threshold, places) = examples, mask
    for h in range(units[0], units[1]):
        z, bias = Z[h][first:last], b[h]
        if code == RELU:
            for i in range(z.shape[0]):
                a = z[i] + bias
                z[i] = zero if a < zero else a
        elif code == LEAKY_RELU:
            for i in range(z.shape[0]):
                a = z[i] + bias
                z[i] = slope * a if a < zero else a
        elif code == TANH:
            for i in range(z.shape[0]):
                a = z[i] + bias
                e = exp(number(-2) * abs(a))
                t = (one - e) / (one + e)
                z[i] = -t if a < zero else t
        elif code == SIGMOID:
            for i in range(z.shape[0]):
                a = z[i] + bias
                e = exp(-abs(a))
                z[i] = (e if a < zero else one) / (one + e)
        else:
            for i in range(z.shape[0]):
                z[i] += bias
        if threshold != ALL:
            drop_unit(z, key, threshold, places[first:last], Z.shape[0], h)


@compiled
def derive(
    dA: Array, A: Array, code: int, slope: Any, mask: Mask, units: Range, examples: Range
) -> None:
    """dA := dA g'(Z), with the same dropout, for a range of units and of examples.

    dA, A: (H, B)."""
    if code == IDENTITY and mask[1] == ALL:
        return
    number = dA.dtype.type
    one, zero = number(1), number(0)
    (first, last), (key, threshold, places) = examples, mask
    for h in range(units[0], units[1]):
        d, a = dA[h][first:last], A[h][first:last]
        if threshold != ALL:
            drop_unit(d, key, threshold, places[first:last], A.shape[0], h)
        if code == RELU:
            for i in range(d.shape[0]):
                d[i] *= number(a[i] > zero)  # a branch makes the step four times slower
        elif code == LEAKY_RELU:
            for i in range(d.shape[0]):
                d[i] *= slope + (one - slope) * number(a[i] > zero)
        elif code == TANH:
            for i in range(d.shape[0]):
                d[i] *= one - a[i] * a[i]
        elif code == SIGMOID:
            for i in range(d.shape[0]):
                d[i] *= a[i] * (one - a[i])
