"""Losses of the list of calls: several minibatches at once, one example per column.

Arrays are (n, K, B) for n steps, K outputs and B examples. `read` takes the targets. `calls(t, Z,
dZ)` yields the calls that compute dZ (K, B) of the sum over examples in step t. After n steps,
`values` returns the loss of each example and output, (n, K, B), in the units of the loss.
"""

from typing import Any

import numpy as np

from nnaccel.kernels.dense_plan import BINARY_CROSS_ENTROPY, CROSS_ENTROPY, SQUARED_ERROR, compact
from nnaccel.kernels.numpy.in_place import (
    Calls,
    constant,
    cross_entropies,
    one_hot,
    softmax_cross_entropy,
    softmax_floor,
)
from nnaccel.typing import Array


class CrossEntropy:
    """Twin of `losses.softmax_cross_entropy`."""

    def __init__(self, shape: tuple[int, int, int], dtype: Any) -> None:
        n, K, B = shape
        self.Y, self.shifted = (np.empty(shape, dtype) for _ in range(2))
        self.S = np.empty((n, 1, B), dtype)
        self.classes = compact(np.arange(K), K)[:, None]

    def read(self, Y: Array) -> None:
        """Y: classes (n, B), or probabilities (n, B, K)."""
        y = self.Y[: Y.shape[0]]
        if Y.ndim == 2:
            one_hot(Y[:, None], self.classes, y)
        else:
            np.add(Y.transpose(0, 2, 1), softmax_floor(y.dtype)[0], out=y)

    def calls(self, t: int, Z: Array, dZ: Array) -> Calls:
        """dZ = softmax(Z) - Y."""
        return softmax_cross_entropy(Z, self.Y[t], self.shifted[t], self.S[t], dZ)

    def values(self, n: int) -> Array:
        """Y (log S - Z)."""
        return cross_entropies(self.shifted[:n], self.S[:n], self.Y[:n])


class BinaryCrossEntropy:
    """Twin of `losses.binary_cross_entropy`."""

    def __init__(self, shape: tuple[int, int, int], dtype: Any) -> None:
        self.Y, self.Z = (np.empty(shape, dtype) for _ in range(2))  # Y - 1 / 2 and Z / 2

    def read(self, Y: Array) -> None:
        """Y: (n, B, K)."""
        np.subtract(Y.transpose(0, 2, 1), 0.5, out=self.Y[: Y.shape[0]])

    def calls(self, t: int, Z: Array, dZ: Array) -> Calls:
        """dZ = sigmoid(Z) - Y = tanh(Z / 2) / 2 - (Y - 1 / 2)."""
        half = constant(0.5, (), Z.dtype)
        yield np.multiply, (Z, half, self.Z[t])
        yield np.tanh, (self.Z[t], dZ)
        yield np.multiply, (dZ, half, dZ)
        yield np.subtract, (dZ, self.Y[t], dZ)

    def values(self, n: int) -> Array:
        """log(1 + exp(Z)) - Y Z = log(1 + exp(-|Z|)) + |Z| / 2 - (Y - 1 / 2) Z."""
        Z, Y = self.Z[:n], self.Y[:n]
        half = np.abs(Z)
        return np.log(1.0 + np.exp(-2.0 * half)) + half - 2.0 * Y * Z


class SquaredError:
    """Twin of `losses.squared_error`."""

    def __init__(self, shape: tuple[int, int, int], dtype: Any) -> None:
        self.Y, self.R = (np.empty(shape, dtype) for _ in range(2))

    def read(self, Y: Array) -> None:
        """Y: (n, B, K)."""
        self.Y[: Y.shape[0]] = Y.transpose(0, 2, 1)

    def calls(self, t: int, Z: Array, dZ: Array) -> Calls:
        """dZ = Z - Y, and a copy for `values`."""
        yield np.subtract, (Z, self.Y[t], dZ)
        yield np.subtract, (Z, self.Y[t], self.R[t])

    def values(self, n: int) -> Array:
        """(Z - Y)^2 / 2."""
        return 0.5 * self.R[:n] ** 2


LOSSES = {
    CROSS_ENTROPY: CrossEntropy,
    BINARY_CROSS_ENTROPY: BinaryCrossEntropy,
    SQUARED_ERROR: SquaredError,
}
